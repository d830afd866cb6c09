"""Unsupervised lesion segmentation in brain MR images.

The path of the data::

    scan.nii.gz -> images.volume -> brain -> slices -> models -> postprocessing -> mask.nii.gz

``brainseg_tf.predict`` segments a scan, ``brainseg_tf.compare`` compares two, ``segmentation.segment`` follows this
path, ``training.fit.fit`` trains the models. Nothing heavy is imported until one of them is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainseg_tf.api import ComparedScans, Model, Prediction, compare, load_model, predict

__version__ = "0.25.0"
__all__ = ["ComparedScans", "Model", "Prediction", "__version__", "compare", "load_model", "predict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from brainseg_tf import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
