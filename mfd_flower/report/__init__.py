"""Tables, plots and one self-contained HTML page from measured results."""
