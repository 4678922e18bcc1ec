"""A training loop of your own over a store, under Accelerate: python docs/examples/accelerate_loop.py STORE [STEPS]."""

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from usjepa.cache.recipes.recipe import load_recipe
from usjepa.train import Predictor, StoreDataset, Student, sample_masks


def main(path: str, steps: int) -> None:
    settings, data = load_recipe("demo", ["train.masks.regions=false"]).train, StoreDataset(path)
    wanted = settings.student.model_copy(update={"patch_size": data.store.size // data.grid[0]})
    student = Student(wanted, data.store.size, 0)
    predictor = Predictor(settings.predictor, student.dim, data.dim, data.grid, 0)
    optimizer = torch.optim.AdamW([*student.parameters(), *predictor.parameters()], lr=5e-4)
    accelerator = Accelerator()
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True, num_workers=2)
    student, predictor, optimizer, loader = accelerator.prepare(student, predictor, optimizer, loader)
    for step, batch in zip(range(steps), loader, strict=False):
        masks = sample_masks(0, step, batch["row"].cpu().numpy(), data.grid, settings.masks)
        parts = (masks.context_BN, masks.context_valid_BN, masks.targets_BMP, masks.targets_valid_BMP)
        context, seen, places, asked = (torch.tensor(part, device=accelerator.device) for part in parts)
        tokens = student(batch["pixels"].float() / 255, context, seen)
        predicted = predictor(tokens, context, seen, places, asked)
        answers = torch.stack([latents[at] for latents, at in zip(batch["latents"], places, strict=True)])
        loss = torch.nn.functional.smooth_l1_loss(predicted[asked], answers[asked])
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100)
