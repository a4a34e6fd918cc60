"""What lies half-way between two latents, on arcs and on the line: a table, and a picture of the first dozen.

    leapstep demo && python benchmarks/interpolation.py demo/run --out interpolation.png

The table: variance of the latents, standard deviation of the pixels over samples, Fréchet distance to held-out digits.
"""

import argparse

import torch

import leapstep
from leapstep.core.interpolation import slerp, spherical
from leapstep.data import read
from leapstep.data.pictures import save_image, table
from leapstep.evaluation.distances import frechet_distance

WAYS = {
    "z1": lambda z1, z2: z1,
    "slerp": lambda z1, z2: slerp(z1, z2, 0.5),
    "spherical": lambda z1, z2: spherical(z1, z2, 0.5),
    "linear": lambda z1, z2: (z1 + z2) / 2,
    "z2": lambda z1, z2: z2,
}


def main(run, n, out):
    model, held_out = leapstep.load(run), read("digits", split="test")
    ends = [leapstep.Noise(seed, range(n), model.shape)(0) for seed in (0, 1)]
    pictures = {}
    print(f"{n} pairs, 20 DDIM steps\n{'half-way by':<12}{'variance':>10}{'variety':>10}{'distance':>10}")
    for name, way in WAYS.items():
        z = way(*ends)
        x = torch.cat([leapstep.decode(model.diffusion(), part, 20) for part in z.split(120)])
        pixels = model.scaling.to_pixels(x)
        distance = frechet_distance(model.scaling.to_model(pixels), held_out.batch(range(len(held_out))))
        print(f"{name:<12}{z.var():>10.3f}{(pixels / 255).std(0).mean():>10.4f}{distance:>10.3f}", flush=True)
        pictures[name] = pixels[:12]
    save_image(table({name: pictures[name] for name in ("z1", "slerp", "linear", "z2")}), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare ways between two latents on a model of the digits.")
    parser.add_argument("run", help="a run folder trained on the digits, such as demo/run")
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--out", default="interpolation.png")
    arguments = parser.parse_args()
    main(arguments.run, arguments.n, arguments.out)
