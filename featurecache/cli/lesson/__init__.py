"""The lesson on transfer learning as commands: one module per lesson, their catalogue, and their writer."""
