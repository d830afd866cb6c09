import numpy as np
import tensorflow as tf

from brainseg_tf.serving.warmup import BATCH_SIZES, read_warmup


def test_warmup_requests_can_be_replayed(trained):
    signatures = tf.saved_model.load(str(trained / "1")).signatures
    replayed = set()
    for request in read_warmup(trained / "1"):
        images = tf.make_ndarray(request.inputs["images"])
        assert images.shape[1:] == (48, 48, 1)
        assert request.model_spec.name == "small"
        outputs = signatures[request.model_spec.signature_name](images=tf.constant(images))
        assert all(len(values) == len(images) for values in outputs.values())
        assert all(np.isfinite(values).all() for values in outputs.values() if values.dtype == tf.float32)
        replayed.add((request.model_spec.signature_name, len(images)))
    assert replayed == {(name, size) for name in signatures for size in BATCH_SIZES}


def test_warmup_requests_are_small(trained):
    assert (trained / "1" / "assets.extra" / "tf_serving_warmup_requests").stat().st_size < 10_000
