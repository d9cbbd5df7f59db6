"""What could keep a labelling job from working, looked for before the job is started."""
