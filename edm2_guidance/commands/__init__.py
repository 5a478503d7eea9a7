"""The pages behind the scripts and console commands: parse, build, run."""
