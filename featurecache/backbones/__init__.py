"""Networks: uint8 images in, activations out.

`protocol` says what a backbone is; `catalog` lists those that there are, as data; `weights` finds and identifies
their weights; `runtime` starts Keras; `network` builds them; `engine` runs them; `fake` is one without a framework,
for tests.
"""
