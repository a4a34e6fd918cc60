"""Training of a denoiser: the loss, the configuration, and the run."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [module.name for module in pkgutil.iter_modules(__path__)],
    {
        "configuration": ["PRESETS", "DistillationConfig", "TrainingConfig", "configure"],
        "distillation": ["Distiller", "distill"],
        "estimate": ["usual_settings"],
        "initial": ["Start"],
        "objective": ["WEIGHTS", "loss", "stratified_times"],
        "parts": ["build_network", "ema_update", "largest", "learning_rate"],
        "run": ["train"],
        "trainer": ["Trainer"],
    },
)
