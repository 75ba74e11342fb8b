"""Makes tests/data/tokenizers/words: golden.jsonl, how jieba cuts some sentences (HMM=False, its own dict.txt), and dict.txt,
the words of that dictionary that occur in them, which gives the same cuts: one more line keeps the sum of frequencies.

    python3 -m venv venv && venv/bin/pip install jieba==0.42.1
    venv/bin/python tests/tokenizer/make_words_golden.py
"""
import json
import pathlib
import random

import jieba

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizers" / "words"
SENTENCES = """我来到北京清华大学
他来到了网易杭研大厦
小明硕士毕业于中国科学院计算所，后在日本京都大学深造
结婚的和尚未结婚的
研究生命的起源
南京市长江大桥
乒乓球拍卖完了
武汉市长江大桥欢迎您
工信处女干事每月经过下属科室都要亲口交代24口交换机等技术性器件的安装工作
今天天气很好，我们去公园散步吧！
语言模型很好用。
机器学习（machine learning）是人工智能的一个分支。
他说："明天下午3点30分在会议室A-201见面。"
2023年10月1日，iPhone15的价格下降了12.5%。
C++和c#是编程语言，T恤和AT&T不是
请联系support@example.com或访问https://www.example.com/index.html?a=1&b=2
这个房子要卖一百二十万元，面积为89.6平方米
买水果然后来世博园最后去世博会
中国的首都是北京，上海是最大的城市之一。
并不是所有的牛奶都叫特仑苏
他从马上下来，马上就走了
我们中出了一个叛徒
这样的人才能经受住考验
把手抬起来，门把手弄坏了
「引号」和『双引号』、破折号——省略号……
全角ＡＢＣ１２３和半角ABC123
日本語のテキストと한국어
переводчик und Übersetzer naïve café
a b  c	d
新冠疫苗接种率达到了百分之九十
长春市长春节致辞
一只小猫坐在窗台上看着外面下雨
春风又绿江南岸，明月何时照我还
人要是行，干一行行一行，一行行行行行
𠮷野家的牛丼很好吃㐀
大规模预训练语言模型在自然语言处理任务中取得了显著的效果
T5-PEGASUS模型_v2.0+beta#1
12,345.67美元约合人民币87654元
我爱北京天安门天安门上太阳升
化妆和服装
永和服装饰品有限公司
亲口交代了这件事情的来龙去脉""".split("\n")


def words_in(sentences, frequencies):
    found = {}
    for text in sentences:
        for begin in range(len(text)):
            for end in range(begin + 1, min(begin + 20, len(text)) + 1):
                if frequencies.get(text[begin:end]):
                    found[text[begin:end]] = frequencies[text[begin:end]]
    return found


def main():
    jieba.initialize()
    rng = random.Random(0)
    characters = "".join(SENTENCES)
    mixed = ["".join(rng.choice(characters) for _ in range(60)) for _ in range(20)]
    sentences = SENTENCES + mixed
    cuts = [jieba.lcut(text, HMM=False) for text in sentences]
    words = words_in(sentences, jieba.dt.FREQ)
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "dict.txt").open("w") as out:
        for word, frequency in words.items():
            print(word, frequency, "n", file=out)
        print("\uf8ff", jieba.dt.total - sum(words.values()), file=out)
    with (FOLDER / "golden.jsonl").open("w") as out:
        for text, cut in zip(sentences, cuts):
            print(json.dumps({"text": text.encode().hex(), "words": [word.encode().hex() for word in cut]}), file=out)
    small = jieba.Tokenizer(str(FOLDER / "dict.txt"))
    assert [small.lcut(text, HMM=False) for text in sentences] == cuts


main()
