"""Shared by commands: options, output, files of predictions, report files, figures."""
