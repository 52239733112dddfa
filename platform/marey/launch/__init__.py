"""What a person types: words become settings, settings become a run. Job files end in `launch`."""

from marey.launch.run import launch

__all__ = ["launch"]
