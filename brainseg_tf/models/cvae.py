"""CVAE, the context variational autoencoder of Table 2, left."""

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import PACKAGE, Conv
from brainseg_tf.models.variational import TabledVariationalModel


@keras.saving.register_keras_serializable(PACKAGE)
class CVAE(TabledVariationalModel):
    """Four convolutions of stride 2 and two latent heads of stride 2; a latent for each 32 x 32 pixels."""

    TABLE = (Conv(4, 2, 1, 16), Conv(4, 2, 1, 32), Conv(4, 2, 1, 64), Conv(4, 2, 1, 64))
    HEAD = Conv(3, 2, 1, 64)
