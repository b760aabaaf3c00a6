"""Native artifacts in processes that import neither PyTorch nor ONNX Runtime until something asks for a tensor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import burnish
from burnish.codegen.native import lowerings
from burnish.ir.dtypes import BYTES
from burnish.ir.errors import UsageError
from burnish.passes.transforms.quantize import Quantize
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.memory import NUMPY, bits
from burnish.runtime.plan import Call
from burnish.runtime.torch_memory import ON_CPU
from tests.own_modules.causal import NanoGPT
from tests.runtime.texts import BOS, EOS, TEMPLATE, byte_tokenizer

_HEAVY = """
import sys
def heavy():
    names = "torch onnxruntime onnx transformers networkx sympy safetensors triton burnish.passes burnish.codegen"
    return [name for name in names.split() if name in sys.modules]
"""
_RUN = """
from burnish.cli import main
sys.argv = ["burnish", "run", sys.argv[1], "the cat", "-n", "5", *sys.argv[2:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not heavy(), heavy()
"""
_TALK = """
import io
from burnish.cli import main
sys.argv = ["burnish", "chat", sys.argv[1], "-n", "5"]
sys.stdin = io.StringIO("the cat\\nthe dog\\n")
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not heavy(), heavy()
"""
_LOADED = """
import burnish
with burnish.load(sys.argv[1]) as model:
    assert model.trace.passes and repr(model)
    prompts = [[1, 2, 3], [7, 8, 9, 10, 11], [5]]
    greedy = model.generate(prompts, max_new_tokens=9)
    model.generate("the cat", max_new_tokens=9, temperature=0.7, seed=1)
    model.generate([1], max_new_tokens=3, do_sample=True, top_k=0, min_p=0.01, repetition_penalty=1.1)
    model.generate([1], max_new_tokens=9, no_repeat_ngram_size=2, frequency_penalty=0.5, logit_bias={5: 1})
    model.generate([1], max_new_tokens=3, temperature=0.7, num_return_sequences=3, bad_words_ids=[[5, 6]])
    model.generate([1, 2], logprobs=2, prompt_logprobs=2)
    model.generate([[1, 2], [3]], num_beams=3, num_return_sequences=2, max_new_tokens=5)
    session = model.session(2)
    session.feed([[1, 2, 3], [4]])
    session.advance([5, 6], wanted="ids")
    session.rewind(2)
    session.feed([[7], [8]], every=True)
    assert not heavy(), heavy()
    logits = session.append([[9], [9]])
    assert heavy()[:1] == ["torch"] and type(logits).__module__ == "torch"
    import torch
    assert model(torch.tensor([[1, 2]])).shape == (1, 2, model.signature.vocabulary)
    print(greedy.tokens)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of integers, with rotary embeddings, a tokenizer and a chat template."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token=BOS, eos_token=EOS, chat_template=TEMPLATE
    )
    folder = tmp_path_factory.mktemp("native") / "llama.burnish"
    model = transformers.LlamaForCausalLM(config).eval()
    transforms = [Quantize("int4", 32)]
    with burnish.compile(model, backend="native", transforms=transforms, tokenizer=tokenizer) as found:
        assert found.artifact.manifest.tables
        assert found.tokenizer is not None
        found.save(folder)
    return folder


def alone(code: str, *words: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-c", _HEAVY + code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [(), ("--temperature", "0.7", "--seed", "1", "--threads", "1"), ("--raw",)])
def test_the_command(saved: Path, words: tuple[str, ...]) -> None:
    assert alone(_RUN, str(saved), *words).strip()


def test_a_conversation(saved: Path) -> None:
    assert alone(_TALK, str(saved)).strip()


def test_loading_and_generating(saved: Path) -> None:
    with burnish.load(saved) as found:
        expected = found.generate([[1, 2, 3], [7, 8, 9, 10, 11], [5]], max_new_tokens=9).tokens
    assert alone(_LOADED, str(saved)).strip() == str(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_kernel_runs_by_pytorch_in_the_same_memory(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(lowerings.KERNELS, torch.ops.burnish.attention.default)
    torch.manual_seed(0)
    model = NanoGPT().eval()
    ids = torch.randint(0, 60, (2, 23))
    with burnish.compile(model, backend="native", max_length=64, dtype=dtype) as found, torch.no_grad():
        assert any(isinstance(step, Call) for step in read_plan(found.artifact).variants[0].all_steps)
        expected = model(ids)
        most = 2e-5 if dtype == torch.float32 else 5e-2
        assert float((found(ids) - expected).abs().max()) < most * float(expected.abs().max())


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", BYTES)
def test_views_are_those_of_pytorch(dtype: str) -> None:
    """The same bytes, whatever their type, shape, strides and offset; what PyTorch refuses is refused."""
    array, tensor = NUMPY.zeros((16,), dtype), ON_CPU.zeros((16,), dtype)
    values = np.arange(array.nbytes, dtype=np.uint8) % (2 if dtype == "bool" else 255)
    array.view(np.uint8)[:] = values
    tensor.view(torch.uint8).numpy()[:] = values
    both = ((NUMPY, array), (ON_CPU, tensor))
    assert NUMPY.address(array) % 64 == ON_CPU.address(tensor) % 64 == 0
    for shape, stride, offset in (((16,), (1,), 0), ((3, 2), (4, 1), 5), ((2, 0), (1, 1), 3), ((4, 3), (0, 2), 1)):
        view, expected = (memory.view(base, dtype, shape, stride, offset) for memory, base in both)
        found = NUMPY.to_torch(view)
        assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
        assert found.contiguous().view(torch.uint8).tolist() == expected.contiguous().view(torch.uint8).tolist()
        assert bits(view).tobytes() == expected.contiguous().view(torch.uint8).numpy().tobytes()
    for shape, stride, offset in (((17,), (1,), 0), ((3, 2), (7, 2), 0), ((1,), (1,), 16), ((2,), (-1,), 5)):
        for memory, base in both:
            with pytest.raises((ValueError, RuntimeError)):
                memory.view(base, dtype, shape, stride, offset)


def test_no_room_is_said_for_what() -> None:
    message = r"the states take 9000000000\.00 GB, and the machine has less"
    with pytest.raises(UsageError, match=message), NUMPY.room("the states", 9 * 10**18):
        NUMPY.zeros((9 * 10**18 - 64,), "uint8")
