"""Draw the embedded engine's garments twice, unguarded and guarded, side by side: demo/grid.png."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from safegen import Pipeline

OUT = Path("demo/grid.png")
PROMPTS = ["a sneaker", "kicks", "a running shoe", "an ankle boot", "a bag", "a coat", "trousers"]
COUNT, ZOOM, MARGIN = 6, 2, 150
SIDE = 32 * ZOOM + 2


def paste_row(sheet: Image.Image, pictures: list, left: int, top: int) -> None:  # type: ignore[type-arg]
    """One prompt's pictures from left to right."""
    for i, picture in enumerate(pictures):
        large = picture.image.resize((32 * ZOOM, 32 * ZOOM), Image.Resampling.NEAREST)
        sheet.paste(large, (left + i * SIDE, top))


def main() -> None:
    """Draw, and say where the picture is and what to do next."""
    pipeline = Pipeline.load()
    bundle = pipeline.bundle
    assert bundle is not None
    print(f"drawing {2 * COUNT * len(PROMPTS)} pictures; the bundle negates: {bundle.info.name}")
    width = MARGIN + 2 * (COUNT * SIDE) + 20
    sheet = Image.new("RGB", (width, 30 + len(PROMPTS) * SIDE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    right = MARGIN + COUNT * SIDE + 20
    draw.text((MARGIN, 6), "without a guard", "black", font)
    draw.text((right, 6), f"guarded: never {bundle.info.name}", "black", font)
    for row, prompt in enumerate(PROMPTS):
        free = pipeline(prompt, n=COUNT, seed=1, guard="off", batch_size=COUNT)
        guarded = pipeline(prompt, n=COUNT, seed=1, batch_size=COUNT)
        top = 30 + row * SIDE
        draw.text((6, top + SIDE // 2 - 10), prompt, "black", font)
        paste_row(sheet, free, MARGIN, top)
        paste_row(sheet, guarded, right, top)
        opened = sum(p.verdict.opened > 0 for p in guarded)
        print(f"  {prompt:16} gate opened on {opened} of {COUNT}")
    OUT.parent.mkdir(exist_ok=True)
    sheet.save(OUT)
    print(f"""wrote {OUT}
next:
  .venv/bin/safegen generate "a photo of a coat" -n 4
  .venv/bin/safegen freeze MY_IMAGES/ -o mine.negation
  .venv/bin/safegen generate "a photo of a bag" -b mine.negation""")


if __name__ == "__main__":
    main()
