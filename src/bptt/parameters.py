"""What layers have in common: options fixed for life; parameters, which a user may edit or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bptt import checks

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bptt.arrays import Array


class Fixed:
    """Base of an object made of options, which a subclass names in `_options`, fixed for its life."""

    __slots__ = ("__weakref__", "parameters")

    _options: ClassVar[tuple[str, ...]] = ()
    #: Said when somebody would put other `parameters` in place of these.
    _instead: ClassVar[str] = ""
    parameters: Any  # a mapping, which a subclass may make one that can be edited
    dtype: np.dtype[Any]

    def __setattr__(self, name: str, value: Any) -> None:
        # A changed size would disagree with the parameters, and the ground floor trusts what is checked here.
        # To set what is there already is fine: `rnn.parameters |= loaded` does.
        fixed = name in self._options or name == "parameters"
        if fixed and hasattr(self, name) and getattr(self, name) is not value:
            hint = self._instead if name == "parameters" else ""
            raise AttributeError(f"{name}: fixed when the {type(self).__name__} is made{hint}")
        object.__setattr__(self, name, value)

    def _represent(self, *positional: str, **defaults: Any) -> str:
        """Return the call that makes such an object, without options that have their default value.

        A default of ``...`` stands for an option that is always told.
        """
        options = [str(getattr(self, name)) for name in positional]
        for name, default in defaults.items():
            value = getattr(self, name)
            if default is ... or value != default:
                options.append(f"{name}={value}" if name == "dtype" else f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(options)})"


class Parametrised(Fixed, ABC):
    """Base of an object with named parameters, which a user may edit; its options are fixed.

    A subclass derives from the options, in `_prepare`, what it needs besides.

    Attributes
    ----------
    parameters : dict
        From PyTorch's name to a plain array. Edit these in place, or assign entries: every call reads them
        afresh.
    """

    __slots__ = ("_seen", "_shapes")

    _instead = "; assign its entries"
    _shapes: dict[str, checks.Shape]
    # The arrays of the last call. One that had to be converted is not the user's, and so never taken for it:
    # the user's may have been edited since.
    _seen: Any
    parameters: dict[str, Array]

    @abstractmethod
    def _prepare(self) -> None:
        """Derive what a call would otherwise work out each time: `_shapes` and more."""

    def _read(self) -> dict[str, Array]:
        """Return the parameters, checked, as the ground floor takes them."""
        return checks.named_arrays("parameters", self.parameters, self._shapes, self.dtype)

    def state_dict(self) -> dict[str, Array]:
        """Copy the parameters.

        Returns
        -------
        dict
            Arrays under PyTorch's names.
        """
        return {name: np.array(value) for name, value in self._read().items()}

    def load_state_dict(self, state_dict: Mapping[str, npt.ArrayLike]) -> None:
        """Copy values into the parameters.

        Parameters
        ----------
        state_dict : mapping
            From PyTorch's names to arrays: of `state_dict`, or of the PyTorch module of the same shape on the
            CPU.

        Raises
        ------
        TypeError
            If an array has another dtype than this object.
        ValueError
            If a name is missing or surplus, or a shape is wrong. Nothing is changed then.
        """
        arrays = checks.named_arrays("state_dict", state_dict, self._shapes, self.dtype)
        # copied first, as they may be parameters of this object's own under other names
        for name, value in [(name, value.copy()) for name, value in arrays.items()]:
            self.parameters[name][...] = value

    def __getstate__(self) -> dict[str, Any]:
        # A subclass of a user's may have a __dict__.
        own = {name: getattr(self, name) for name in (*self._options, "parameters")}
        return own | getattr(self, "__dict__", {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._prepare()
