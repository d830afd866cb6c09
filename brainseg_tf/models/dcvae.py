"""dCVAE, the dilated context variational autoencoder of Table 2, right."""

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import PACKAGE, Conv
from brainseg_tf.models.variational import TabledVariationalModel


@keras.saving.register_keras_serializable(PACKAGE)
class DilatedCVAE(TabledVariationalModel):
    """Dilated convolutions see far with few strides; a latent for each 6 x 6 pixels."""

    TABLE = (Conv(6, 1, 1, 8), Conv(5, 2, 2, 16), Conv(6, 1, 2, 16), Conv(5, 3, 2, 16))
    HEAD = Conv(3, 1, 1, 16)
