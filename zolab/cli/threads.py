"""The number of threads, for commands whose result may depend on it in the last bits."""


def use_threads(number: int) -> None:
    """Let torch use so many. Raises ValueError for less than one."""
    if number < 1:
        raise ValueError(f"threads must be at least 1, got {number}.")
    import torch

    torch.set_num_threads(number)
