"""The lesson on transfer learning, made runnable: one module for each lesson, and what they are written on."""
