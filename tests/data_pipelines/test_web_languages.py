"""Each language is judged by its own words: prose of it stays, prose of another goes; an unknown one is refused."""

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import FineWebQualityFilter

from data_pipelines.web import dedup, filters, words
from data_pipelines.web.languages import LANGUAGES, known
from llm_jax.config import UserError

PROSE = {
    "de": "Am Rand der Stadt steht eine alte Mühle, die seit vielen Jahren nicht mehr arbeitet. Die Kinder "
    "spielen dort im Sommer, und ihre Eltern sitzen mit Kaffee auf den Steinen am Bach. Im Herbst kommt "
    "der Müller zurück, um das Rad zu prüfen. Er erzählt von den Zeiten, in denen das Mehl mit Pferden "
    "in das Tal gebracht wurde. Niemand weiß, wie lange das Dach noch hält. Der Rat will es nun "
    "erneuern, aber das Geld reicht nur für die Hälfte.",
    "fr": "Au bord de la ville se trouve un vieux moulin qui ne travaille plus depuis des années. Les enfants "
    "y jouent en été, et leurs parents boivent le café sur les pierres du ruisseau. En automne, le "
    "meunier revient pour voir la roue. Il raconte le temps où la farine partait avec des chevaux dans "
    "la vallée. Personne ne sait combien de temps le toit va tenir. La mairie veut le refaire, mais "
    "l'argent ne suffit que pour une moitié.",
    "ru": "На краю города стоит старая мельница, которая уже много лет не работает. Дети играют там летом, а "
    "родители пьют кофе на камнях у ручья. Осенью мельник возвращается, чтобы проверить колесо. Он "
    "рассказывает о времени, когда муку возили в долину на лошадях. Никто не знает, как долго ещё "
    "продержится крыша. Совет хочет её обновить, но денег хватает только на половину. Это было бы хорошо "
    "и для школы, что стоит рядом с мельницей.",
    "hi": "शहर के किनारे एक पुरानी चक्की है जो कई साल से बंद है। गर्मी में बच्चे वहाँ खेलते हैं और उनके "
    "माता-पिता पत्थरों पर बैठकर चाय पीते हैं। सर्दी में चक्की का मालिक पहिया देखने को आता है। वह उस समय "
    "की बात करता है जब आटा घोड़ों से घाटी में भेजा जाता था। किसी को पता नहीं कि छत और कितने दिन टिकेगी। "
    "गाँव की सभा उसे फिर से बनाना चाहती है, पर पैसे आधे काम के लिए ही हैं।",
    "ja": "町のはずれに古い水車があり、もう何年も動いていません。夏になると子どもたちがそこで遊び、親たちは小川"
    "の石に座ってお茶を飲みます。秋には粉屋が車輪を見に戻ってきます。彼は馬で粉を谷へ運んだ時代の話をしま"
    "す。屋根がいつまで持つかは誰も知りません。村の会議は直したいと言いますが、お金は半分しかありません。"
    "学校の先生と生徒が手伝うと決めました。",
    "zh": "城边有一座旧磨坊，已经很多年不工作了。夏天孩子们在那里玩，父母坐在小河的石头上喝茶。秋天磨坊的主人回"
    "来看水轮。他说起从前用马把面粉送到山谷的日子。没有人知道屋顶还能用多久。村里的人想把它修好，可是钱只"
    "够一半。学校的老师和学生决定帮忙，他们每个星期来一次。我也在那里工作过。",
    "ar": "تقف على طرف المدينة طاحونة قديمة لم تعمل منذ سنوات كثيرة. يلعب الأطفال هناك في الصيف، ويشرب الآباء "
    "القهوة على حجارة النهر. في الخريف يعود الطحان من القرية لكي يرى العجلة. يحكي عن زمن كان فيه الدقيق "
    "ينقل إلى الوادي على الخيل. لا يعرف أحد كم يبقى هذا السقف. يريد المجلس أن يصلح البيت، لكن المال يكفي "
    "نصف العمل. قال المعلم إنه يساعد مع التلاميذ.",
}


def dropped_by(text: str, code: str) -> str | None:
    """The name of the first filter that drops it, of those that the recipe has."""
    doc, short = Document(text=text, id="x"), LANGUAGES[code].short_line
    fineweb = FineWebQualityFilter(short_line_length=short, language=words.name_of(code))
    steps = (filters.Language(code, 0.65), filters.Repetition(code), filters.Quality(code), filters.C4(code), fineweb)
    return next((type(step).__name__ for step in steps if step.filter(doc) is not True), None)


@pytest.mark.parametrize("code", PROSE)
def test_prose_of_a_language_stays_and_is_judged_by_its_own_words(code):
    assert dropped_by(PROSE[code], code) is None
    other = "ru" if code != "ru" else "de"
    assert dropped_by(PROSE[other], code) == "Language"
    # Without its common words a text is a list, and one that repeats itself is none, in any language.
    stop_words, cut = set(LANGUAGES[code].stop_words), words.splitter(code).word_tokenize(PROSE[code])
    bare = " ".join(word for word in cut if word not in stop_words)
    assert filters.Quality(code).filter(Document(text=bare, id="x")) == (False, "gopher_enough_stop_words")
    again = " ".join([PROSE[code][:40]] * 20)
    assert filters.Repetition(code).filter(Document(text=again, id="x")) is not True


@pytest.mark.parametrize(
    "code, text, wanted",
    [
        ("hi", "किताब, की दुकान।", ["किताब", ",", "की", "दुकान", "।"]),
        ("ja", "古い港は、クレーンが3.5トン", ["古", "い", "港", "は", "、", "クレーン", "が", "3.5", "トン"]),
        ("zh", "他说Python 3。", ["他", "说", "Python", "3", "。"]),
        ("fa", "می\u200cخواهم", ["می\u200cخواهم"]),
        ("de", "Größe: 1.000 …", ["Größe", ":", "1.000", "…"]),
        ("ar", "كِتَابٌ", ["كِتَابٌ"]),
    ],
)
def test_words_are_cut_as_the_language_writes_them(code, text, wanted):
    assert words.splitter(code).word_tokenize(text) == wanted


def test_near_duplicates_without_spaces_share_a_band(tmp_path):
    signature = dedup.Signature(str(tmp_path), "zh")
    bands = lambda text: signature.get_signature(signature.get_shingles(text))[:14]  # noqa: E731
    shared = lambda a, b: sum(x == y for x, y in zip(bands(a), bands(b), strict=True))  # noqa: E731
    assert shared(PROSE["zh"], PROSE["zh"].replace("很多年", "十几年")) >= 1
    assert shared(PROSE["zh"], PROSE["ja"]) == 0


@pytest.mark.parametrize("code", ["english", "xx", "", "EN", "th", "en-US"])
def test_a_language_without_words_of_its_own_is_refused(code):
    with pytest.raises(UserError, match="no stop words") as told:
        known(code)
    assert f"--language={code}" in str(told.value) and "de, el, en" in str(told.value)
