"""Optimisers that update parameter arrays in place, with PyTorch's formulas and names.

An optimiser holds one set of moments for each parameter name.  ``step`` takes dictionaries, so it does not
matter where parameters and gradients come from: ``network.parameters`` and what ``loss_and_gradients``
returned, or any other arrays.  A step is all or nothing: interrupted half-way (Ctrl-C, an error), it leaves
parameters and moments as they were before it.

Buffers are made at the first step and used again after that; a step allocates nothing.

Source: docs/equations.md, section "Update"; Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bptt import checks
from bptt.arrays import Array
from bptt.clipping import clip_grad_norm, clip_grad_value

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm", "clip_grad_value"]

#: What ``state_dict`` holds: moments as arrays, step counts and options as scalars.
State = dict[str, Any]


class _Slot:
    """What an optimiser keeps for one parameter.

    Moments come in pairs: ``old`` is the state after the last finished step, ``new`` is where a step writes.
    They change places when every parameter has been updated, so an interrupted step loses nothing.
    """

    __slots__ = ("backup", "new", "old", "scratch", "steps")

    def __init__(self, like: Array, moments: int) -> None:
        self.steps = 0
        self.old = [np.zeros_like(like) for _ in range(moments)]
        self.new = [np.zeros_like(like) for _ in range(moments)]
        self.scratch = [np.empty_like(like) for _ in range(2)]
        self.backup = np.empty_like(like)  # the parameter before the step


class Optimizer:
    """What ``SGD``, ``Adam`` and ``AdamW`` have in common: slots, atomic steps, state dictionaries.

    Parameters
    ----------
    lr : float
        Learning rate, >= 0.
    weight_decay : float
        >= 0.

    Attributes
    ----------
    lr : float
        May be changed between steps, by a schedule say.
    """

    _moments: ClassVar[tuple[str, ...]] = ()
    _options: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr = checks.not_negative("lr", lr)
        self.weight_decay = checks.not_negative("weight_decay", weight_decay)
        self._slots: dict[str, _Slot] = {}

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> None:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        parameters : mapping of str to ndarray
            Writeable float32 or float64 arrays; changed in place.
        gradients : mapping of str to ndarray
            Of the same shapes and dtypes; not changed.  A parameter without an entry is left alone, which
            freezes it.

        Raises
        ------
        ValueError
            For a gradient without a parameter, a shape that differs, or a read-only parameter.
        TypeError
            For a dtype that is not float32 or float64, or not the same in both.

        Notes
        -----
        Non-finite gradients are not looked for; they make non-finite parameters, as in PyTorch.
        """
        known = self._slots
        found = {name: self._slot(name, parameters, gradient) for name, gradient in gradients.items()}
        todo = [(slot, parameters[name], gradients[name]) for name, slot in found.items()]
        before = [(slot.old, slot.new, slot.steps) for slot, _, _ in todo]
        for slot, parameter, _ in todo:
            np.copyto(slot.backup, parameter)
        try:
            with np.errstate(under="ignore", over="ignore", invalid="ignore", divide="ignore"):
                for slot, parameter, gradient in todo:
                    self._update(slot, parameter, gradient)
            for slot, _, _ in todo:
                slot.old, slot.new, slot.steps = slot.new, slot.old, slot.steps + 1
            self._slots = known | found
        except BaseException:
            for (slot, parameter, _), (old, new, steps) in zip(todo, before, strict=True):
                np.copyto(parameter, slot.backup)
                slot.old, slot.new, slot.steps = old, new, steps
            self._slots = known
            raise

    def state_dict(self) -> State:
        """Return everything that a run needs to go on from here, as copies.

        Returns
        -------
        dict
            Flat.  ``"optimizer"``: the class's name; each option by its name; ``"step.<parameter>"``: how
            many steps it has had; ``"<moment>.<parameter>"``: an array, the moments under PyTorch's
            names (``momentum_buffer``; ``exp_avg``, ``exp_avg_sq``).
        """
        state: State = {"optimizer": type(self).__name__}
        state.update((option, getattr(self, option)) for option in self._options)
        for name, slot in self._slots.items():
            state[f"step.{name}"] = slot.steps
            for moment, array in zip(self._moments, slot.old, strict=True):
                state[f"{moment}.{name}"] = array.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over options and moments, so that the next step is the one that would have come.

        Parameters
        ----------
        state : mapping
            From ``state_dict`` of an optimiser of the same class.  Arrays are copied.

        Raises
        ------
        ValueError
            If it comes from another class, misses an entry or has one too many.
        TypeError
            If a moment is not a float32 or float64 array, or an option not a number.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a mapping, got {type(state).__name__}")
        kind = type(self).__name__
        if state.get("optimizer") != kind:
            raise ValueError(f"state: expected the state of {kind}, got {state.get('optimizer')!r}")
        rest = {key: value for key, value in state.items() if key != "optimizer"}
        missing = [option for option in self._options if option not in rest]
        if missing:
            raise ValueError(f"state: expected the option {missing[0]!r}, got none")
        # Checked by the constructor, so that a bad state leaves this optimiser as it is.
        fresh = type(self)(**{option: rest.pop(option) for option in self._options})
        for name in [key.removeprefix("step.") for key in rest if key.startswith("step.")]:
            steps = checks.integer(f"step.{name}", rest.pop(f"step.{name}"), 0)
            arrays = []
            for moment in self._moments:
                if f"{moment}.{name}" not in rest:
                    raise ValueError(f"state: expected an entry '{moment}.{name}', got none")
                arrays.append(checks.float_array(f"{moment}.{name}", rest.pop(f"{moment}.{name}")))
            if any((a.shape, a.dtype) != (arrays[0].shape, arrays[0].dtype) for a in arrays):
                raise ValueError(f"state: expected moments of one shape and dtype for {name}, got several")
            slot = _Slot(arrays[0], len(arrays))
            slot.steps = steps
            for target, source in zip(slot.old, arrays, strict=True):
                np.copyto(target, source)
            fresh._slots[name] = slot
        if rest:
            raise ValueError(f"state: expected no entry {next(iter(rest))!r}, got one")
        self.__dict__.update(fresh.__dict__)

    def _update(self, slot: _Slot, parameter: Array, gradient: Array) -> None:
        """Write the new parameter in place and the new moments into ``slot.new``."""
        raise NotImplementedError

    def _slot(self, name: str, parameters: Mapping[str, Array], gradient: Array) -> _Slot:
        """Check a parameter with its gradient and return its slot, a new one if it has had no step."""
        if name not in parameters:
            raise ValueError(f"gradients: expected names of parameters, got {name!r}")
        parameter = parameters[name]
        checks.float_array(f"parameters[{name!r}]", parameter)
        checks.float_array(f"gradients[{name!r}]", gradient)
        if not parameter.flags.writeable:
            raise ValueError(f"parameters[{name!r}]: expected a writeable array, got a read-only one")
        if gradient.shape != parameter.shape:
            raise ValueError(f"gradients[{name!r}]: expected shape {parameter.shape}, got {gradient.shape}")
        if gradient.dtype != parameter.dtype:
            raise TypeError(f"gradients[{name!r}]: expected {parameter.dtype}, got {gradient.dtype}")
        slot = self._slots.get(name)
        if slot is None:
            slot = _Slot(parameter, len(self._moments))
        known = slot.backup
        if (known.shape, known.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(
                f"parameters[{name!r}]: expected shape {known.shape} and {known.dtype} as in earlier steps, "
                f"got {parameter.shape} and {parameter.dtype}"
            )
        return slot

    def __repr__(self) -> str:
        options = ", ".join(f"{option}={getattr(self, option)!r}" for option in self._options)
        return f"{type(self).__name__}({options})"


class SGD(Optimizer):
    """Gradient descent with momentum.

        g <- g + weight_decay p
        b <- momentum b + g
        p <- p - lr (g + momentum b  if nesterov else  b)

    Parameters
    ----------
    lr : float
        Learning rate, >= 0.
    momentum : float
        >= 0; 0 is plain gradient descent, theta <- theta - lr dL/dtheta.
    nesterov : bool
        Nesterov's momentum; needs ``momentum`` > 0.
    weight_decay : float
        L2 penalty, added to the gradient; >= 0.

    Raises
    ------
    ValueError
        For an option out of range.
    """

    _moments = ("momentum_buffer",)
    _options = ("lr", "momentum", "nesterov", "weight_decay")

    def __init__(
        self, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = checks.not_negative("momentum", momentum)
        self.nesterov = checks.flag("nesterov", nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum: expected more than 0 with nesterov, got 0")

    def _update(self, slot: _Slot, parameter: Array, gradient: Array) -> None:
        (b,), (b_new,), g, scratch = slot.old, slot.new, gradient, slot.scratch[0]
        if self.weight_decay:
            # g <- g + weight_decay p
            g = np.multiply(parameter, self.weight_decay, out=slot.scratch[1])
            np.add(g, gradient, out=g)
        if self.momentum:
            # b <- momentum b + g
            np.multiply(b, self.momentum, out=b_new)
            np.add(b_new, g, out=b_new)
            if self.nesterov:
                # g <- g + momentum b
                np.multiply(b_new, self.momentum, out=scratch)
                g = np.add(scratch, g, out=scratch)
            else:
                g = b_new
        # p <- p - lr g
        np.multiply(g, self.lr, out=scratch)
        np.subtract(parameter, scratch, out=parameter)


class Adam(Optimizer):
    """Adam, with PyTorch's formulas.

        g <- g + weight_decay p
        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Parameters
    ----------
    lr : float
        Learning rate, >= 0.
    betas : tuple of two floats
        Decay of the running mean of the gradient and of its square, each in [0, 1).
    eps : float
        >= 0.
    weight_decay : float
        L2 penalty, added to the gradient; >= 0.  ``AdamW`` decays the parameters themselves.

    Raises
    ------
    ValueError
        For an option out of range.
    """

    _moments = ("exp_avg", "exp_avg_sq")
    _options = ("lr", "betas", "eps", "weight_decay")
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        given: Any = betas
        if isinstance(given, str) or not hasattr(given, "__len__") or len(given) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas!r}")
        self.betas = (
            checks.not_negative("betas[0]", betas[0], below=1.0),
            checks.not_negative("betas[1]", betas[1], below=1.0),
        )
        self.eps = checks.not_negative("eps", eps)

    def _update(self, slot: _Slot, parameter: Array, gradient: Array) -> None:
        (m, v), (m_new, v_new), (scratch, decayed) = slot.old, slot.new, slot.scratch
        beta1, beta2 = self.betas
        t = slot.steps + 1
        g = gradient
        if self.weight_decay and self._decoupled:
            # p <- p - lr weight_decay p
            np.multiply(parameter, 1.0 - self.lr * self.weight_decay, out=parameter)
        elif self.weight_decay:
            # g <- g + weight_decay p
            g = np.multiply(parameter, self.weight_decay, out=decayed)
            np.add(g, gradient, out=g)
        # m <- beta1 m + (1 - beta1) g
        np.multiply(m, beta1, out=m_new)
        np.multiply(g, 1.0 - beta1, out=scratch)
        np.add(m_new, scratch, out=m_new)
        # v <- beta2 v + (1 - beta2) g^2
        np.multiply(v, beta2, out=v_new)
        np.multiply(g, g, out=scratch)
        np.multiply(scratch, 1.0 - beta2, out=scratch)
        np.add(v_new, scratch, out=v_new)
        # p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
        np.sqrt(v_new, out=scratch)
        np.divide(scratch, math.sqrt(1.0 - beta2**t), out=scratch)
        np.add(scratch, self.eps, out=scratch)
        np.divide(m_new, scratch, out=scratch)
        np.multiply(scratch, self.lr / (1.0 - beta1**t), out=scratch)
        np.subtract(parameter, scratch, out=parameter)


class AdamW(Adam):
    """Adam with decoupled weight decay: p <- p - lr weight_decay p, then Adam's step without the penalty.

    Parameters
    ----------
    lr, betas, eps : float
        As in ``Adam``.
    weight_decay : float
        >= 0; 0.01 by default, as in PyTorch.

    Raises
    ------
    ValueError
        For an option out of range.
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)
