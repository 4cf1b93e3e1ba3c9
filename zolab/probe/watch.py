"""Notice weights that are read where nobody expects it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from zolab.probe.blocks import has_memory

# What asks a tensor about its form and leaves its numbers alone; getters of properties are told by what they return.
_FORM = {
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size", "data_ptr", "get_device"),
    *("is_contiguous", "is_floating_point", "is_complex", "is_inference", "untyped_storage", "__len__", "__hash__"),
    *("empty_like", "zeros_like", "ones_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"),
}


class Watch(TorchFunctionMode):
    """Inside the block, an operation on one of the tensors, or on a view of one, is an error that names it.

    Values are those of the unwatched block, to the bit: each torch function is let through as it is. What compiled code does
    inside is not seen.

    Args:
        tensors: the tensors.
        complain: gets the name of one that is read; it raises.
        names: of the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor], names: Sequence[str], complain: Callable[[str], None]):
        super().__init__()
        self.complain, self.off = complain, False
        self.allowed: set[str] = set()
        """Names of tensors that may be read for now."""
        self.spans: dict[int, list[tuple[int, int, str]]] = {}
        for tensor, name in zip(tensors, names, strict=True):
            if tensor.numel():
                start = tensor.data_ptr()
                span = (start, start + tensor.numel() * tensor.element_size(), name)
                self.spans.setdefault(tensor.untyped_storage().data_ptr(), []).append(span)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.off or func.__name__ in _FORM:
            return func(*args, **kwargs)
        read = [name for tensor in _tensors((args, kwargs)) if (name := self._name_of(tensor)) and name not in self.allowed]
        result = func(*args, **kwargs)
        if read and not (func.__name__ == "__get__" and not isinstance(result, Tensor)):
            self.complain(read[0])
        return result

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """For what may read the tensors inside the block."""
        before, self.off = self.off, True
        try:
            yield
        finally:
            self.off = before

    def _name_of(self, tensor: Tensor) -> str | None:
        if not has_memory(tensor):
            return None
        spans = self.spans.get(tensor.untyped_storage().data_ptr())
        first = tensor.data_ptr() if spans else 0
        return next((name for start, end, name in spans or () if start <= first < end), None)


def _tensors(value: Any) -> Iterable[Tensor]:
    """The tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
