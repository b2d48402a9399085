"""Constants that are made once for each dtype and device."""

from __future__ import annotations

from typing import Any

import torch


class Constants:
    """Base of classes whose constants are needed in several dtypes and on several devices.

    Subclasses define :meth:`make_constants` and call :meth:`forget_constants` once it can be called. Copies and pickles
    leave out what can be made again.
    """

    _cache: dict[tuple[torch.dtype, torch.device], Any]

    def make_constants(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Tensors that share no memory with those of another dtype or device."""
        raise NotImplementedError

    def forget_constants(self) -> None:
        """Start anew, with those of float32 and float64 on the CPU."""
        self._cache = {}
        for dtype in (torch.float32, torch.float64):  # now: what torch.func's transforms make does not outlive them
            self.constants(dtype, torch.device("cpu"))

    def constants(self, dtype: torch.dtype, device: torch.device) -> Any:
        """What :meth:`make_constants` makes, kept."""
        if (dtype, device) not in self._cache:
            with torch.inference_mode(False):  # what is kept must serve autograd later
                self._cache[dtype, device] = self.make_constants(dtype, device)
        return self._cache[dtype, device]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.forget_constants()
