"""Runs a SavedModel with TensorFlow's C library, which is in its wheel, without importing its Python package.

The import takes seconds, and a prediction needs little of it. The C library runs the same operations, here on the CPU.
Only what a signature with one input needs is here:
https://www.tensorflow.org/install/lang_c and ``tensorflow/c/c_api.h``.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.links import for_tensorflow

Signature = Callable[[np.ndarray], dict[str, np.ndarray]]
# The parts of TensorFlow's C library, of which the second needs the first, and their suffixes on Linux and macOS.
_LIBRARIES = ("libtensorflow_framework", "libtensorflow_cc")
_SUFFIXES = (".so.2", ".2.dylib")
# Data types by their number in ``tensorflow/core/framework/types.proto``.
_TYPES: dict[int, Any] = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8}
_NUMBERS = {np.dtype(kind): number for number, kind in _TYPES.items()}
# Numbers of fields in the protocol buffers SavedModel, MetaGraphDef, SignatureDef, TensorInfo and ConfigProto.
_META_GRAPHS, _SIGNATURES, _INPUTS, _OUTPUTS, _TENSOR_NAME = 2, 5, 1, 2, 1
_KEY, _VALUE = 1, 2
_DEVICE_COUNT, _INTRA_THREADS, _INTER_THREADS = 1, 2, 5


class _Output(ctypes.Structure):
    """TF_Output: an output of an operation."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def is_available() -> bool:
    """Whether the C library is there."""
    return bool(_files())


@cache
def library() -> ctypes.CDLL:
    """The C library, loaded.

    Raises:
        InputError: it is missing, or the system cannot load it.
    """
    files = _files()
    if not files:
        raise InputError("TensorFlow's C library is not in this installation of TensorFlow; give --engine tensorflow")
    try:
        *_, loaded = [ctypes.CDLL(str(file)) for file in files]
    except OSError as error:
        raise InputError(
            f"TensorFlow's C library cannot be loaded ({printable(error)}); give --engine tensorflow"
        ) from error
    return loaded


def open_signature(path: Path, threads: int | None = None) -> Signature:
    """Loads a SavedModel; several threads can call the result.

    Args:
        path: the version folder of the SavedModel. Its files must have been checked: the C library trusts them.
        threads: within an operation and for several operations; None for all cores.

    Returns:
        A function from the input of ``serving_default`` to its outputs by name.

    Raises:
        InputError: the model or the C library cannot be loaded.
    """
    try:
        signature = _signature((path / "saved_model.pb").read_bytes())
    except (LookupError, ValueError, OSError) as error:
        raise InputError(
            f"{printable(path)}: is not a SavedModel with the signature serving_default; export the model again"
        ) from error
    return _Session(path, *signature, _config(threads)).run


class _Session:
    """A session of the C library with a loaded SavedModel.

    Args:
        path: the version folder.
        feed: name of the input tensor.
        fetches: names of the output tensors, by the name of the output.
        config: a serialized ConfigProto.
    """

    def __init__(self, path: Path, feed: str, fetches: dict[str, str], config: bytes) -> None:
        self._path, self._names = path, list(fetches)
        graph = _call("TF_NewGraph", ctypes.c_void_p)
        options = _call("TF_NewSessionOptions", ctypes.c_void_p)
        with _Status(path) as status:
            _call("TF_SetConfig", None, options, ctypes.c_char_p(config), ctypes.c_size_t(len(config)), status)
        tags = (ctypes.c_char_p * 1)(b"serve")
        with for_tensorflow(path, any_bytes=True) as folder, _Status(path) as status:
            self._session = _call(
                "TF_LoadSessionFromSavedModel",
                ctypes.c_void_p,
                options,
                None,
                ctypes.c_char_p(bytes(folder)),
                tags,
                ctypes.c_int(1),
                graph,
                None,
                status,
            )
        self._feed = (_Output * 1)(_tensor(graph, feed))
        self._fetches = (_Output * len(fetches))(*(_tensor(graph, name) for name in fetches.values()))

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs for an input, by name."""
        values = (ctypes.c_void_p * 1)(_to_tensor(images))
        answers = (ctypes.c_void_p * len(self._names))()
        try:
            with _Status(self._path) as status:
                _call(
                    "TF_SessionRun",
                    None,
                    ctypes.c_void_p(self._session),
                    None,
                    self._feed,
                    values,
                    ctypes.c_int(1),
                    self._fetches,
                    answers,
                    ctypes.c_int(len(answers)),
                    None,
                    ctypes.c_int(0),
                    None,
                    status,
                )
            return {name: _to_array(answer) for name, answer in zip(self._names, answers, strict=True)}
        finally:
            for tensor in (*values, *answers):
                if tensor:
                    _call("TF_DeleteTensor", None, ctypes.c_void_p(tensor))


class _Status:
    """A TF_Status; raises an ``InputError`` with its message at the end of the block, if there is one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ctypes.c_void_p:
        self._status = ctypes.c_void_p(_call("TF_NewStatus", ctypes.c_void_p))
        return self._status

    def __exit__(self, *error: object) -> None:
        failed = _call("TF_GetCode", ctypes.c_int, self._status)
        message = _call("TF_Message", ctypes.c_char_p, self._status).decode(errors="replace")
        _call("TF_DeleteStatus", None, self._status)
        if failed:
            raise InputError(
                f"{printable(self._path)}: TensorFlow's C library reports: {printable(message)[:300]}; give "
                "--engine tensorflow"
            )


def _files() -> list[Path]:
    """The files of the C library; none if one is missing."""
    spec = importlib.util.find_spec("tensorflow")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in folders:
        for suffix in _SUFFIXES:
            files = [folder / f"{name}{suffix}" for name in _LIBRARIES]
            if all(file.is_file() for file in files):
                return files
    return []


def _call(name: str, result: Any, *arguments: Any) -> Any:
    """Calls a function of the C library."""
    function = getattr(library(), name)
    # The types belong to this call only: those of a shared function would be changed by other threads.
    typed = ctypes.CFUNCTYPE(result, *(_type_of(one) for one in arguments))(
        ctypes.cast(function, ctypes.c_void_p).value or 0
    )
    return typed(*arguments)


def _type_of(argument: Any) -> Any:
    """The C type of an argument; numbers and None are pointers."""
    return ctypes.c_void_p if argument is None or isinstance(argument, int) else type(argument)


def _tensor(graph: int, name: str) -> _Output:
    """A tensor in a graph, by a name such as ``StatefulPartitionedCall:1``."""
    operation, _, index = name.partition(":")
    found = _call("TF_GraphOperationByName", ctypes.c_void_p, graph, ctypes.c_char_p(operation.encode()))
    return _Output(found, int(index or 0))


def _to_tensor(array: np.ndarray) -> int:
    """A new TF_Tensor with a copy of an array."""
    array = np.ascontiguousarray(array)
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    tensor: int = _call(
        "TF_AllocateTensor",
        ctypes.c_void_p,
        ctypes.c_int(_NUMBERS[array.dtype]),
        shape,
        ctypes.c_int(array.ndim),
        ctypes.c_size_t(array.nbytes),
    )
    ctypes.memmove(_call("TF_TensorData", ctypes.c_void_p, tensor), array.ctypes.data, array.nbytes)
    return tensor


def _to_array(tensor: int) -> np.ndarray:
    """A copy of a TF_Tensor as an array."""
    dimensions = range(_call("TF_NumDims", ctypes.c_int, tensor))
    shape = [_call("TF_Dim", ctypes.c_int64, tensor, ctypes.c_int(axis)) for axis in dimensions]
    array = np.empty(shape, _TYPES[_call("TF_TensorType", ctypes.c_int, tensor)])
    if array.size:
        ctypes.memmove(array.ctypes.data, _call("TF_TensorData", ctypes.c_void_p, tensor), array.nbytes)
    return array


def _signature(saved_model: bytes) -> tuple[str, dict[str, str]]:
    """The input and the outputs of ``serving_default`` in a serialized SavedModel.

    Returns:
        The name of the input tensor, and the names of the output tensors by the name of the output.
    """
    (graph,) = _values(saved_model, _META_GRAPHS)
    signature = _map(graph, _SIGNATURES)["serving_default"]
    (feed,) = _map(signature, _INPUTS).values()
    outputs = _map(signature, _OUTPUTS)
    names = {name: _values(info, _TENSOR_NAME)[0].decode() for name, info in outputs.items()}
    return _values(feed, _TENSOR_NAME)[0].decode(), names


def _config(threads: int | None) -> bytes:
    """A serialized ConfigProto: no GPU, and a number of threads."""
    no_gpu = _field(_KEY, b"GPU") + _field(_VALUE, 0)
    config = _field(_DEVICE_COUNT, no_gpu)
    if threads is not None:
        config += _field(_INTRA_THREADS, threads) + _field(_INTER_THREADS, threads)
    return config


def _map(message: bytes, number: int) -> dict[str, bytes]:
    """A map from strings to messages in a protocol buffer."""
    return {_values(entry, _KEY)[0].decode(): _values(entry, _VALUE)[0] for entry in _values(message, number)}


def _values(message: bytes, number: int) -> list[bytes]:
    """The values of a field of bytes in a serialized protocol buffer."""
    return [value for field, value in _fields(message) if field == number and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a serialized protocol buffer: their numbers and values.

    https://protobuf.dev/programming-guides/encoding
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
        else:
            size, place = (8, place) if kind == 1 else (4, place) if kind == 5 else _varint(message, place)
            yield number, message[place : place + size]
            place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """An integer of variable length, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a serialized protocol buffer."""
    if isinstance(value, int):
        return _as_varint(number << 3) + _as_varint(value)
    return _as_varint(number << 3 | 2) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
