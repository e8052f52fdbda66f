"""Package metadata. Every dependency is stated here, once, with the oldest version it works with; ``constraints.txt`` has the tested ones."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "launch" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]
README = ROOT / "README.md"

REQUIRES = [
    "torch>=2.11",
    "torchvision>=0.26",
    "transformers>=5.17",
    "tokenizers>=0.22",
    "safetensors>=0.6",
    "huggingface_hub>=1.0",
    "peft>=0.18",
    "trl>=1.0",
    "accelerate>=1.10.1",
    "deepspeed>=0.18.6",
    "datasets>=4.7",
    "webdataset>=1.0",
    "pyarrow>=21",
    "fsspec>=2025.3",
    "filelock>=3.30",
    "tenacity>=9.0",
    "sam2>=1.1",  # install it after torch and without build isolation (docs/install.md): its own build would fetch torch a second time
    "hydra-core>=1.3.2",
    "omegaconf>=2.3",
    "pycocotools>=2.0.8",
    "isal>=1.7",  # crc32 of what is read, sixteen times as quick as zlib's
    "numpy>=2.0",
    "scipy>=1.14",
    "pillow>=11",
    "av>=14",
    "jinja2>=3.1",
    "tabulate>=0.9",
    "tensorboard>=2.18",
    "pyyaml>=6.0.1",
    "psutil>=5.9.4",
    "tqdm>=4.66.3",
]
EXTRAS = {
    "gpu": ["flash-attn>=2.8; platform_system == 'Linux'", "liger-kernel>=0.8", "bitsandbytes>=0.45.1"],
    "video": ["torchcodec>=0.7"],  # decodes videos inside shards with the system's FFmpeg, instead of PyAV
    "remote": ["aiohttp>=3.10", "s3fs>=2025.3", "gcsfs>=2025.3"],  # shards over HTTP, S3, GCS
    "transcribe": ["faster-whisper>=1.1"],  # subtitles for films that have none
    "judge": ["openai>=1.60"],
    "embed": ["sentence-transformers>=3.0"],  # agreement of answers in meaning
    "dev": ["opencv-python-headless>=4.10", "pytest>=8.3", "pytest-xdist>=3.6", "aiohttp>=3.10", "ruff>=0.9",
            "openai>=1.60", "fastapi>=0.110", "uvicorn>=0.29"],  # the last three: a server of transformers as a test's judge
}

setup(
    name="unipixel-train",
    version=VERSION,
    description="Train video-language models that answer with evidence: an answer, time segments and pixel masks",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=find_packages(include=[f"{name}{tail}" for name in ("unipixel", "sam2_ext", "data_tools", "benchmarks", "launch", "deepspeed_configs")
                                    for tail in ("", ".*")]),
    package_data={
        "deepspeed_configs": ["*.json"],
        "data_tools": ["templates/*.j2", "preference/prompts/*.j2"],
        "unipixel": ["data/prompts/*.j2"],
        "benchmarks": ["templates/*.j2", "published/*.yaml", "suites/*.yaml"],
        "launch": ["recipes/*.yaml", "configs/*.json", "*.sh", "slurm.sbatch"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["unipixel = launch.cli:main"]},
)
