import lightgbm as lgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

images, labels = load_digits(return_X_y=True)
train_images, val_images, train_labels, val_labels = train_test_split(images, labels, random_state=0)
train = lgb.Dataset(train_images, train_labels)
val = lgb.Dataset(val_images, val_labels, reference=train)

lgb.train(
    {"objective": "multiclass", "num_class": 10, "metric": "multi_logloss", "num_leaves": 7, "num_threads": 1},
    train,
    num_boost_round=20,
    valid_sets=[train, val],
    callbacks=[lgb.log_evaluation(period=2)],
)
