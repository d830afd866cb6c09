"""Warmup requests, which TensorFlow Serving replays when it loads a model, so that the first prediction is fast."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from brainseg_tf.files import replacing
from brainseg_tf.model_card import ModelCard

if TYPE_CHECKING:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

FILE = Path("assets.extra", "tf_serving_warmup_requests")
# A batching server pads batches to one of these sizes. The first batch of each size is slow, so each has a request.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def write_warmup(version_folder: Path, card: ModelCard, signatures: Iterable[str]) -> None:
    """Writes one request per signature and batch size, with black slices of the card's size.

    The format is a TFRecord file of serialized ``PredictionLog`` messages, see
    https://www.tensorflow.org/tfx/serving/saved_model_warmup.

    Args:
        version_folder: folder of the SavedModel.
        card: of the model.
        signatures: names of its signatures.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    size = card.slices.size
    with replacing(version_folder / FILE) as temporary, tf.io.TFRecordWriter(str(temporary)) as records:
        for signature in sorted(signatures):
            for batch in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = card.name
                request.model_spec.signature_name = signature
                # A constant tensor stores its value only once: a record has 100 bytes instead of 2 MB.
                black = tf.make_tensor_proto(0.0, shape=(batch, size, size, len(card.modalities)))
                request.inputs["images"].CopyFrom(black)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                records.write(log.SerializeToString())


def read_warmup(version_folder: Path) -> Iterator["PredictRequest"]:
    """Reads the requests that ``write_warmup`` wrote."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(version_folder / FILE)).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
