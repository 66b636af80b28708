"""The training loop of generators and classifiers.

It has steps, validation, averaged weights, checkpoints, resume and early stopping. A run that is
killed and started again in the same folder ends with identical weights: batches and noise depend on
(seed, step) only, and checkpoints are written at evaluations, where the loop has no other state.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader

from ecgforge.errors import EcgforgeError
from ecgforge.params import Compute, Training
from ecgforge.records.record_set import RecordSet
from ecgforge.training import checkpoints, devices
from ecgforge.training.batches import Batch, DeviceRecords, Draws, Records, in_order, near
from ecgforge.training.objective import Objective, named

Log = Callable[[dict[str, float], int], None]

POINTS = 40  # points of a training loss, so that a training that stops early has a curve too


@dataclass(frozen=True)
class Outcome:
    """Result of a training: its steps, best monitored value, and whether it stopped early."""

    steps: int
    best: float
    stopped_early: bool


class _Loop(lightning.LightningModule):
    def __init__(
        self,
        objective: Objective,
        settings: Training,
        compute: Compute,
        draws: Draws,
        seed: int,
        log: Log,
    ) -> None:
        super().__init__()
        self.module = objective.module
        self._objective, self._settings, self._compute = objective, settings, compute
        self._draws, self._seed, self._send = draws, seed, log
        self._losses: list[dict[str, Tensor]] = []  # of the steps since the last evaluation
        self._outputs: list[dict[str, Tensor]] = []

    def _step_seed(self, stream: int, step: int) -> int:
        state = np.random.SeedSequence([self._seed, stream, step]).generate_state(1, np.uint64)[0]
        return int(state >> 1)

    def _noise(self, stream: int, step: int) -> torch.Generator:
        # on the device, which would wait for numbers from the CPU
        return torch.Generator(self.device).manual_seed(self._step_seed(stream, step))

    def on_train_epoch_start(self) -> None:
        self._draws.step = self.global_step
        self._losses = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        # dropout uses the global generator
        seed = self._step_seed(2, self.global_step)
        if self.device.type == "cpu":  # for other devices, torch would format the stack each time
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        losses = self._objective.loss(*batch, self._noise(0, self.global_step))
        loss = losses["loss"]
        # a GPU would stand idle while its result is read: `on_validation_epoch_start` checks there
        if not devices.is_asynchronous(self.device) and not torch.isfinite(loss):
            raise self._diverged("the loss", loss.item())
        self._losses.append({key: value.detach() for key, value in losses.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        curves = {
            key: torch.stack([one[key] for one in self._losses]).double().cpu().numpy()
            for key in self._losses[0]
        }
        total = float(curves["loss"].sum())
        if not np.isfinite(total):
            raise self._diverged("the sum of the last losses", total)
        for steps in np.array_split(np.arange(len(self._losses)), self._parts()):
            means = {key: float(values[steps].mean()) for key, values in curves.items()}
            done = self.global_step - len(self._losses) + int(steps[-1]) + 1
            self._send(named(means, "train"), done)

    def _parts(self) -> int:
        """Return how many points of a training loss belong to an evaluation."""
        settings = self._settings
        wanted = -(-POINTS * settings.evaluate_every // settings.steps)
        return min(wanted, settings.evaluate_every)

    def validation_step(self, batch: Batch, index: int) -> None:
        self._outputs.append(self._objective.validate(*batch, self._noise(1, index)))

    def on_validation_epoch_end(self) -> None:
        metrics = self._objective.summarise(self._outputs)
        self._outputs = []
        for key, value in metrics.items():
            # checked before a checkpoint is written, so that the last checkpoint is valid
            if not np.isfinite(value):
                raise self._diverged(f"validation {key}", value)
        self.log(self._objective.monitor, metrics[self._objective.monitor])
        self._send(named(metrics, "validation"), self.global_step)

    def _diverged(self, name: str, value: float) -> EcgforgeError:
        return EcgforgeError(
            f"training diverged at step {self.global_step}: {name} is {value}; lower "
            "learning_rate or gradient_clip"
        )

    def configure_optimizers(self) -> Any:
        settings = self._settings
        optimiser = torch.optim.AdamW(
            self._objective.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            # Lightning clips no gradients of a fused optimiser in mixed precision
            fused=devices.precision(self._compute) == "32-true",
        )

        def rate(step: int) -> float:
            if step < settings.warmup_steps:
                return (step + 1) / (settings.warmup_steps + 1)
            done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
            return 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))

        return {
            "optimizer": optimiser,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimiser, rate),
                "interval": "step",
            },
        }


class _Averaging(WeightAveraging):
    """Averages the weights after each step, on their device.

    The decay grows from 0.1 to `decay`, so that the initial weights have little influence in short
    trainings. Lightning and torch would read the number of averaged weights from the device, and
    move all weights, in each step.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        super().__init__(device, use_buffers=False)
        self._decay = decay

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        step, average = trainer.global_step, self._average_model
        assert average is not None
        decay = min(self._decay, step / (9 + step)) if step > 1 else 0.0
        torch._foreach_lerp_(
            list(average.module.parameters()), list(pl_module.parameters()), 1 - decay
        )
        for averaged, current in zip(average.module.buffers(), pl_module.buffers(), strict=True):
            averaged.copy_(current)


class _Patience(EarlyStopping):
    """Early stopping that also holds after a resume.

    Lightning stores in the checkpoint that a training has stopped, but does not read it.
    """

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        trainer.should_stop = self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED


def fit(
    objective: Objective,
    train: Sequence[RecordSet],
    validation: Sequence[RecordSet],
    settings: Training,
    compute: Compute,
    *,
    seed: int,
    folder: Path,
    log: Log,
) -> Outcome:
    """Train, or resume the training from the checkpoint in `folder`.

    `objective.module` gets the best weights. A training that has ended, after all steps or early,
    is not continued. One training uses one device.

    Args:
        objective: the module, its losses and its evaluation.
        train, validation: record sets, each list concatenated.
        settings: of the training loop.
        compute: device, precision and threads.
        seed: of batches and noise.
        folder: for checkpoints. The caller uses it for one set of inputs only, and removes it at
            the end.
        log: receives (metrics, step) at every evaluation: first about `POINTS` means of the losses
            in all, each over some steps, then the metrics on validation records.

    Raises:
        EcgforgeError: the loss or a validation metric is not finite. The last valid checkpoint
            stays in `folder`.
    """
    devices.set_up(compute)
    device = devices.device(compute)
    records, held_out = Records(train), Records(validation)
    draws = Draws(records.labels, settings.batch_size, settings.class_balance_power, seed)
    loop = _Loop(objective, settings, compute, draws, seed, log)
    keep_best = checkpoints.Best(
        folder,
        "best",
        monitor=objective.monitor,
        mode="max" if objective.higher_is_better else "min",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    keep_last = ModelCheckpoint(
        folder,
        "last",
        save_top_k=1,
        monitor=None,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    stop = _Patience(
        objective.monitor,
        mode=keep_best.mode,
        patience=settings.patience or settings.steps,
        check_on_train_epoch_end=True,
    )
    callbacks: list[Callback] = [stop, keep_best, keep_last]
    if settings.ema_decay:
        callbacks.insert(0, _Averaging(settings.ema_decay, device))
    trainer = _trainer(settings, compute, callbacks)
    sets = near(records, device), near(held_out, device)
    try:
        # by default, fork_rng loads CUDA, also for a training on the CPU
        gpus = range(torch.cuda.device_count()) if devices.on_gpu(compute) else ()
        with torch.random.fork_rng(gpus):
            trainer.fit(
                loop,
                DataLoader(sets[0], sampler=draws, batch_size=None),
                DataLoader(
                    sets[1],
                    sampler=in_order(len(held_out), settings.batch_size),
                    batch_size=None,
                ),
                ckpt_path=checkpoints.resumable(folder),
                weights_only=True,
            )
    except SystemExit:
        # Lightning turns Ctrl-C into an exit; the tracked run must be able to distinguish the two.
        raise KeyboardInterrupt from None
    finally:
        for one in sets:
            if isinstance(one, DeviceRecords):
                one.release()
    best = torch.load(keep_best.best_model_path, map_location="cpu", weights_only=True)
    loop.cpu().load_state_dict(best["state_dict"])
    assert keep_best.best_model_score is not None
    return Outcome(
        trainer.global_step, float(keep_best.best_model_score), trainer.global_step < settings.steps
    )


def _trainer(settings: Training, compute: Compute, callbacks: list[Callback]) -> lightning.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    on_gpu = devices.on_gpu(compute)
    if on_gpu:
        # "deterministic" would write to each new tensor
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    interactive = sys.stderr.isatty()
    return lightning.Trainer(
        accelerator="cuda" if on_gpu or compute.accelerator == "gpu" else "cpu",
        devices=1,  # Lightning would start the whole command again for each further device
        precision=devices.precision(compute),
        # An epoch of the loop is the interval between two evaluations: Lightning resumes exactly
        # only at the end of an epoch.
        max_epochs=settings.steps // settings.evaluate_every,
        limit_train_batches=settings.evaluate_every,
        gradient_clip_val=settings.gradient_clip,
        num_sanity_val_steps=0,
        deterministic="warn" if on_gpu else True,
        logger=False,
        # Lightning would read the variables of a SLURM job otherwise: it could refuse to start, or
        # resume another cell's checkpoint.
        plugins=[checkpoints.AtomicCheckpoints(), LightningEnvironment()],
        enable_progress_bar=interactive,
        enable_model_summary=False,
        callbacks=[*callbacks, RichProgressBar()] if interactive else callbacks,
    )
