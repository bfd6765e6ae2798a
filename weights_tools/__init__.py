"""Names, shapes and files of Stable Video Diffusion checkpoints. Knows no module and never imports vcut."""
