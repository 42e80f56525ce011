"""forecast.overlap: what is finished behind is the same, in order, and errors and interrupts get through."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from forecast.overlap import finish_behind, on_side_stream, to_host


def test_the_next_item_is_drawn_while_one_is_finished() -> None:
    """Finishing item k returns only when item k + 1 has been drawn: done one after the other this would hang."""
    drawn = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for k in range(4):
            drawn[k].set()
            yield k

    def finish(k: int) -> tuple[int, str]:
        assert k == 3 or drawn[k + 1].wait(20)
        return k, threading.current_thread().name

    results = list(finish_behind(finish, items()))
    assert [k for k, _ in results] == [0, 1, 2, 3]
    assert all(name.startswith("decode") for _, name in results)


def test_at_most_one_finished_item_waits() -> None:
    """When result k is handed out, no more than items up to k + 1 have been drawn: memory is bounded."""
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for k in range(10):
            drawn.append(k)
            yield k

    for k in finish_behind(lambda k: k, items()):
        assert len(drawn) <= k + 2


@pytest.mark.parametrize("where", ["drawing", "finishing"])
def test_errors_reach_the_caller(where: str) -> None:
    """An error in item 2, on either side, ends the stream after the results before it; no thread is left."""

    def items() -> Iterator[int]:
        for k in range(5):
            if where == "drawing" and k == 2:
                raise KeyboardInterrupt
            yield k

    def finish(k: int) -> int:
        if where == "finishing" and k == 2:
            raise RuntimeError("the decoder broke")
        return k

    got: list[int] = []
    with pytest.raises(KeyboardInterrupt if where == "drawing" else RuntimeError):
        for k in finish_behind(finish, items()):
            got.append(k)
    assert got == [0] if where == "drawing" else [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_whoever_stops_early_leaves_no_thread() -> None:
    """Closing the stream in the middle ends its thread."""
    stream = finish_behind(lambda k: k, iter(range(100)))
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_to_host_gives_float32_on_the_cpu() -> None:
    """bfloat16 becomes float32 exactly; float32 on the CPU is not copied."""
    half = torch.tensor([1.0, 1 / 3], dtype=torch.bfloat16)
    assert torch.equal(to_host(half), half.float())
    whole = torch.ones(3)
    assert to_host(whole).data_ptr() == whole.data_ptr()


@pytest.mark.gpu
def test_a_side_stream_waits_for_its_latents() -> None:
    """Ten matrix products in a row, each finished on the side stream: the results are those of one stream."""
    a = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0)).cuda() / 45

    def items() -> Iterator[torch.Tensor]:
        x = a
        for _ in range(10):
            x = a @ x
            yield x

    plain = [to_host(x.square()) for x in items()]
    beside = list(on_side_stream(lambda x: to_host(x.square()), items()))
    assert all(torch.equal(x, y) for x, y in zip(plain, beside, strict=True))
