from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

images, labels = load_digits(return_X_y=True)
classifier = MLPClassifier((32,), max_iter=12, early_stopping=True, verbose=True, random_state=0)
classifier.fit(images / 16, labels)
