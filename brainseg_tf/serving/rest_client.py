"""TensorFlow Serving's REST API."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import requests

from brainseg_tf.errors import InputError
from brainseg_tf.serving.remote import MIXED_SIZES, MayPassError, Served

_MAY_PASS = (429, 502, 503, 504)
_NOT_FOUND = 404


class RestClient:
    """See ``remote.Client``."""

    def __init__(self, served: Served) -> None:
        self._served = served
        scheme, target = served.address()
        self._url = f"{scheme}://{target}/v1/models/{served.path}:predict"
        self._session = requests.Session()
        # Given with every request: an environment variable would win over the session's.
        self._verify = str(served.ca) if served.ca else True

    def predict(self, signature: str, images: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
        request: dict[str, Any] = {"signature_name": signature, "inputs": {"images": images.tolist()}}
        try:
            answer = self._session.post(self._url, json=request, timeout=self._served.timeout, verify=self._verify)
        except requests.exceptions.SSLError as error:
            raise InputError(
                f"{self._served.url}: no trusted connection; give its authority's certificates with --server-ca, or "
                "leave the s of the scheme out if it has none"
            ) from error
        except requests.exceptions.RequestException as error:
            raise self._silent(type(error).__name__) from error
        if answer.status_code in _MAY_PASS:
            raise self._silent(f"{answer.status_code}: {_reason(answer)}")
        if MIXED_SIZES in _reason(answer):
            raise MayPassError.of_mixed_sizes(self._served)
        if answer.status_code == _NOT_FOUND or "version label" in _reason(answer):
            raise InputError(
                f"{self._served}: is not served ({_reason(answer)}); check --server-model, version and label"
            )
        if not answer.ok:
            raise InputError(
                f"{self._served}: refused the request ({answer.status_code}: {_reason(answer)}); serve what "
                "brainseg-tf export laid out"
            )
        try:
            named = answer.json()["outputs"]
        except (ValueError, KeyError) as error:
            raise InputError(
                f"{self._served.url}: does not speak TensorFlow Serving's REST API; check host and port"
            ) from error
        # A signature's only output comes without its name.
        named = named if isinstance(named, dict) else {outputs[0]: named}
        return {
            name: np.array(named[name], None if signature == "describe" else np.float32)
            for name in outputs
            if name in named
        }

    def _silent(self, how: str) -> MayPassError:
        return MayPassError(
            f"{self._served.url}: no answer from TensorFlow Serving ({how}); check that it runs and that this is its "
            "REST port, 8501 unless it was changed"
        )


def _reason(answer: requests.Response) -> str:
    """What TensorFlow Serving, or whoever else answered, gave as the reason, in one line."""
    try:
        text = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        text = answer.reason or ""
    return " ".join(str(text).split())[:300]
