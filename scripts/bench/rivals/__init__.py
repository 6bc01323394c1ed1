"""Other services with the same Keras model; they run in an environment of their own, without this project."""
