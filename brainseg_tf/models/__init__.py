"""The networks by name."""

from brainseg_tf.models.cvae import CVAE
from brainseg_tf.models.dae import DAE
from brainseg_tf.models.dcvae import DilatedCVAE
from brainseg_tf.models.fusion import FusionSegmenter
from brainseg_tf.models.objective import ContextModel
from brainseg_tf.models.selfseg import SelfSegmenter
from brainseg_tf.models.unet import UNet

ARCHITECTURES: dict[str, type[ContextModel]] = {
    "cvae": CVAE,
    "dcvae": DilatedCVAE,
    "dae": DAE,
    "unet": UNet,
    "selfseg": SelfSegmenter,
    "fusion": FusionSegmenter,
}


def create(architecture: str, channels: int) -> ContextModel:
    """A new, untrained network, ready for images of any height and width.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        channels: image channels, one per modality.
    """
    model = ARCHITECTURES[architecture](channels, name=architecture)
    model.build((None, None, None, channels))
    return model
