"""What the locks are made from (make lock). at4ctr runs from a checkout and is not installed."""

import sys

from setuptools import setup

if {"bdist_wheel", "editable_wheel", "install", "develop"} & {*sys.argv}:
    sys.exit(
        "error: at4ctr was to be installed as a package; expected a checkout, as recipes and data "
        "sets are files of it; clone it and run make train or make setup there"
    )

setup(
    name="at4ctr",
    version="0.1.0",
    description="Training of click-through-rate models with training-only auxiliary tasks",
    python_requires=">=3.11,<3.12",
    packages=[],
    install_requires=[
        "absl-py",
        "duckdb>=2",
        "grpcio",
        "matplotlib",
        "numpy",
        "optuna>=5",
        "protobuf",
        "pyarrow",
        "requests",
        "scikit-learn",
        "scipy",
        "tensorboard",
        "tensorflow==2.21.*",
        "tensorflow-datasets",
        "tensorflow-recommenders==0.7.7",
        "tensorflow-serving-api==2.21.*",
        "tf_keras==2.21.*",
    ],
    extras_require={
        "dev": [
            "hypothesis",
            "import-linter",
            "mypy",
            "pandas",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "ruff",
        ],
        "spark": ["pyspark>=4,<5"],
    },
)
