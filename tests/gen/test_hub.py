"""Model folders: written whole, checked when opened, found by name and never fetched."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from gen.hub import PACKAGED, HubError, open_model, resolve, save_model, seal


class Net(ModelMixin, ConfigMixin):
    """A network with a configuration, a float and an integer tensor."""

    @register_to_config
    def __init__(self, width: int = 3, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("count", torch.tensor(7))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    documents = {"normalizer": {"mean": [1.5, 2.0]}}
    tensors = {"fields": {"a": torch.arange(3.0, dtype=torch.float64)}}
    meta = {"kind": "forecast"}
    return save_model(tmp_path / "m", {"net": Net(4)}, meta, documents=documents, tensors=tensors, card="# Card\n")


def test_model_comes_back(folder: Path) -> None:
    """Weights, configuration, documents and tensors come back equal, in eval mode."""
    torch.manual_seed(0)
    original, model = Net(4), open_model(folder)
    net = model.load("net", Net)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in original.state_dict().items())
    assert net.config.width == 4 and not net.training and model.index["kind"] == "forecast"
    assert model.document("normalizer") == {"mean": [1.5, 2.0]}
    assert torch.equal(model.tensors("fields")["a"], torch.arange(3.0, dtype=torch.float64))


def test_half_precision_storage_is_loaded_as_float32(folder: Path, tmp_path: Path) -> None:
    """Stored in float16 the file is half as large, weights come back as float32 within 2^-11, integers as they were."""
    net = Net(64)
    save_model(tmp_path / "full", {"net": net}, {})
    save_model(tmp_path / "half", {"net": net}, {}, dtype=torch.float16)
    sizes = [(tmp_path / n / "net" / "diffusion_pytorch_model.safetensors").stat().st_size for n in ("full", "half")]
    assert 1.9 < sizes[0] / sizes[1] < 2.0
    back = open_model(tmp_path / "half").load("net", Net)
    assert back.layer.weight.dtype == torch.float32 and back.count == 7 and net.layer.weight.dtype == torch.float32
    assert torch.allclose(back.layer.weight, net.layer.weight, rtol=2**-11, atol=2**-24)


def test_diffusers_reads_the_component(folder: Path) -> None:
    """The sub-folder is what diffusers itself writes and reads."""
    net = Net.from_pretrained(str(folder / "net"), local_files_only=True)
    assert torch.equal(net.layer.weight, open_model(folder).load("net", Net).layer.weight)


def test_sums_are_those_of_sha256sum(folder: Path) -> None:
    """`sha256sum --check` accepts the list (where the program exists), and the digest is the list's SHA-256."""
    assert open_model(folder).digest == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this machine")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_digest_names_the_model(folder: Path, tmp_path: Path) -> None:
    """Equal models have equal digests; another weight, document or added file has another; the card does not count."""
    digest = open_model(folder).digest
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("# Another card\n")
    assert open_model(tmp_path / "copy").digest == digest
    (tmp_path / "copy" / "states.npz").write_bytes(b"1")
    assert seal(tmp_path / "copy") == open_model(tmp_path / "copy").digest != digest


def one_line(call: Any, *words: str) -> None:
    with pytest.raises(HubError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_damaged_weights_are_one_line(folder: Path) -> None:
    """One flipped bit in a weight file is refused in one line that names the file and what to do."""
    path = folder / "net" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    one_line(lambda: open_model(folder), "net/diffusion_pytorch_model.safetensors", "damaged", "again")


@pytest.mark.parametrize("name", ["normalizer.json", "SHA256SUMS", "model_index.json"])
def test_missing_files_are_one_line(folder: Path, name: str) -> None:
    """A file that is not there is named."""
    (folder / name).unlink()
    one_line(lambda: open_model(folder), name)


@pytest.mark.parametrize("text", ["", "gibberish\n", f"{'0' * 64}  ../../passwd\n", "\xff\n"])
def test_damaged_sums_are_one_line(folder: Path, text: str) -> None:
    """A list that is empty, no list, or points outside the folder is refused."""
    (folder / "SHA256SUMS").write_bytes(text.encode("latin-1"))
    one_line(lambda: open_model(folder), "SHA256SUMS")


def test_unlisted_weights_are_refused(folder: Path) -> None:
    """A weight file that no hash covers is not ignored."""
    shutil.copy(folder / "fields.safetensors", folder / "more.safetensors")
    one_line(lambda: open_model(folder), "more.safetensors")


def test_weights_of_another_network_are_one_line(folder: Path) -> None:
    """Configuration and weights that do not fit are an error that names the class."""
    path = folder / "net" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "width": 5}))
    seal(folder)
    one_line(lambda: open_model(folder).load("net", Net), "Net", "layer.weight")
    one_line(lambda: open_model(folder).load("codec", Net), "codec", "net")


def test_class_of_the_index_must_be_trusted(folder: Path) -> None:
    """A folder cannot make us import a module of its choice."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "net": ["os", "system"]}))
    seal(folder)
    one_line(lambda: open_model(folder).load("net"), "os.system", "trusted")


@pytest.mark.parametrize(
    "name", [["gen.absent", "Net"], ["gen.hub", "Absent"], ["gen.hub", "shutil"], ["gen.hub", "nn"]]
)
def test_class_of_the_index_must_be_a_network(name: list[str], folder: Path) -> None:
    """Modules, functions and names that are not there are refused before anything is called."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "net": name}))
    seal(folder)
    one_line(lambda: open_model(folder).load("net"), ".".join(name), "no network")


def test_values_that_overflow_are_not_exported(tmp_path: Path) -> None:
    """A weight above 65504 has no float16: nothing is written under the final name."""
    net = Net()
    net.layer.weight.data.fill_(1e5)
    one_line(lambda: save_model(tmp_path / "m", {"net": net}, {}, dtype=torch.float16), "layer.weight", "float16")
    assert not list(tmp_path.glob("m*"))


def test_weights_that_come_one_by_one_replace_those_of_the_network(tmp_path: Path) -> None:
    """A network on the meta device, which holds nothing, is written with the tensors handed over."""
    net = Net()
    with torch.device("meta"):
        empty = Net()
    save_model(tmp_path / "m", {"net": empty}, {}, weights={"net": iter(net.state_dict().items())})
    loaded = open_model(tmp_path / "m").load("net", Net)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_only_a_model_is_replaced(folder: Path, tmp_path: Path) -> None:
    """Saving again replaces a model folder, and refuses a folder that holds something else."""
    save_model(folder, {"net": Net(2)}, {})
    assert open_model(folder).load("net", Net).config.width == 2
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    one_line(lambda: save_model(tmp_path / "thesis", {"net": Net()}, {}), "thesis")


def test_names_are_resolved_without_a_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packaged name and a path are found; anything else is one line at once, with the near miss."""
    assert resolve(folder) == folder and resolve(str(folder)) == folder
    monkeypatch.setitem(PACKAGED, "mine", ("gen", str(folder)))
    assert resolve("mine") == folder
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    one_line(lambda: resolve("dmo"), "demo", "did you mean")
    one_line(lambda: resolve("google/ddpm-cifar10-32"), "google/ddpm-cifar10-32", "demo")
    one_line(lambda: resolve(tmp_path), "model_index.json")
