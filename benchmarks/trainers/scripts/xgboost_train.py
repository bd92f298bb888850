import xgboost as xgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
train_images, val_images, train_labels, val_labels = train_test_split(images, labels, random_state=0)
train = xgb.DMatrix(train_images, train_labels)
val = xgb.DMatrix(val_images, val_labels)

xgb.train(
    {"objective": "multi:softmax", "num_class": 10, "max_depth": 3, "nthread": 1},
    train,
    num_boost_round=12,
    evals=[(train, "train"), (val, "val")],
)
