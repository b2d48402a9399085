"""Settings that several tests of the command line share."""

#: A main job of three batches, in silence.
SMALL = [
    "--data.train_size=96",
    "--data.val_size=64",
    "--data.test_size=70",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]
