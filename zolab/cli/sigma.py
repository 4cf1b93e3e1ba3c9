"""What both ways of making a PertNN print of it."""


def print_largest(sigma: dict[str, float], count: int = 5) -> None:
    """The blocks with the largest scales."""
    for name, value in sorted(sigma.items(), key=lambda item: -item[1])[:count]:
        print(f"  sigma {value:8.3f}   {name}")
