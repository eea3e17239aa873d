"""The command `moejax`: the mains of experiments/ by name, lists of methods and configs, completion, one line per error."""
