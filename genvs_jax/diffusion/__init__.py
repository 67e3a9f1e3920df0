"""EDM's preconditioning, samplers and augmentation: functions of arrays."""
