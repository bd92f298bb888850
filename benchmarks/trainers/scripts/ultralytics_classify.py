from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits
from ultralytics import YOLO

digits = load_digits()
for number in range(600):
    folder = Path("digits", "val" if number % 4 == 0 else "train", str(digits.target[number]))
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray((digits.images[number] * 15).astype("uint8"))
    image.resize((32, 32)).save(folder / f"{number}.png")

model = YOLO("yolov8n-cls.yaml")
model.train(data=str(Path("digits").resolve()), epochs=2, imgsz=32, batch=64, workers=0, device="cpu", plots=False)
