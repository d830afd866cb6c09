"""Warmup requests, which TensorFlow Serving replays when it loads a model, so that the first prediction is fast."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brainseg_tf.files import replacing

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

FILE = Path("assets.extra", "tf_serving_warmup_requests")
# A batching server pads batches to one of these sizes. The first batch of each size is slow, so each has a request.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def write_warmup(
    version_folder: Path,
    model: str,
    signatures: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtype: "tf.DType",
) -> None:
    """Writes one request per signature and shape, with black images.

    The format is a TFRecord file of serialized ``PredictionLog`` messages, see
    https://www.tensorflow.org/tfx/serving/saved_model_warmup.

    Args:
        version_folder: folder of the SavedModel.
        model: its name.
        signatures: names of its signatures.
        shapes: of the images, with the batch first.
        dtype: of the images.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with replacing(version_folder / FILE) as temporary, tf.io.TFRecordWriter(str(temporary)) as records:
        for signature in signatures:
            for shape in shapes:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model
                request.model_spec.signature_name = signature
                # A constant tensor stores its value only once: a record has 100 bytes instead of 2 MB.
                black = tf.make_tensor_proto(0, dtype=dtype, shape=shape)
                request.inputs["images"].CopyFrom(black)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                records.write(log.SerializeToString())


def read_warmup(version_folder: Path) -> Iterator["PredictRequest"]:
    """Reads the requests that ``write_warmup`` wrote."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(version_folder / FILE)).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
