"""Requests that a server replays when it loads a model, so that the first user does not wait for it to get going."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from brainseg_tf.files import replacing
from brainseg_tf.model_card import ModelCard

if TYPE_CHECKING:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

FILE = Path("assets.extra", "tf_serving_warmup_requests")
# A server that batches fills up to one of these: each is a graph of its own to it.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def write_warmup(version_folder: Path, card: ModelCard, signatures: Iterable[str]) -> None:
    """Writes a request per signature and batch size: black slices of the card's size.

    A TFRecord file of serialized ``PredictionLog``s, https://www.tensorflow.org/tfx/serving/saved_model_warmup.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    size = card.slices.size
    with replacing(version_folder / FILE) as beside, tf.io.TFRecordWriter(str(beside)) as records:
        for signature in sorted(signatures):
            for batch in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = card.name
                request.model_spec.signature_name = signature
                # One number stands for all that follow it, so a record takes 100 bytes and not 2 MB.
                black = tf.make_tensor_proto(0.0, shape=(batch, size, size, len(card.modalities)))
                request.inputs["images"].CopyFrom(black)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                records.write(log.SerializeToString())


def read_warmup(version_folder: Path) -> Iterator["PredictRequest"]:
    """The requests that ``write_warmup`` wrote."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tf.data.TFRecordDataset(str(version_folder / FILE)).as_numpy_iterator():
        yield prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
