"""Networks: uint8 images in, activations out.

`protocol` is the interface; `catalog` lists the networks, as data; `weights` finds and identifies their weights;
`keras_runtime` starts Keras; `network` builds Keras models; `engines` chooses what computes them: `keras_engine` or
`numba_engine`. `fake` is a backbone without a framework, for tests.

Private: `featurecache` has the public names.
"""
