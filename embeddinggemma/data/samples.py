"""Texts that models are tried on: pairs of one meaning, many languages, code.

Written for this purpose. The two sides of a pair share a meaning and few
words; no two pairs share a topic.
"""

# ruff: noqa: RUF001  (letters of other scripts are meant)

# (language, text, paraphrase)
PAIRS = (
  (
    "English",
    "The ferry to the island leaves every morning at six.",
    "A boat sails out to the isle daily at dawn.",
  ),
  (
    "English",
    "Plants turn sunlight into sugar.",
    "Photosynthesis lets leaves make food from light.",
  ),
  (
    "English",
    "Her grandmother taught her how to repair old clocks.",
    "She learned to fix antique timepieces from her gran.",
  ),
  (
    "German",
    "Der Zug hat wegen des Schnees zwei Stunden Verspätung.",
    "Weil es geschneit hat, kommt die Bahn viel später an.",
  ),
  (
    "French",
    "Le boulanger ferme sa boutique le lundi.",
    "La boulangerie n'ouvre pas en début de semaine.",
  ),
  (
    "Spanish",
    "El agua hierve a cien grados a nivel del mar.",
    "Junto al mar, el punto de ebullición del agua es 100 °C.",
  ),
  (
    "Portuguese",
    "O médico pediu um exame de sangue.",
    "Foi solicitada uma análise sanguínea pelo doutor.",
  ),
  (
    "Italian",
    "Il museo conserva quadri del Rinascimento.",
    "Nella galleria si trovano dipinti del Cinquecento.",
  ),
  (
    "Polish",
    "Kot śpi na parapecie w słońcu.",
    "Na oknie drzemie zwierzak, grzejąc się w promieniach.",
  ),
  (
    "Russian",
    "Учёные открыли новую планету у далёкой звезды.",
    "Астрономы нашли ранее неизвестный мир за пределами Солнечной системы.",
  ),
  (
    "Turkish",
    "Köprü gelecek yıl trafiğe açılacak.",
    "Araçlar yeni köprüden bir sene sonra geçebilecek.",
  ),
  (
    "Arabic",
    "ارتفعت أسعار القمح هذا الصيف.",
    "أصبح ثمن الحبوب أغلى في الأشهر الأخيرة.",
  ),
  (
    "Hindi",
    "बच्चे नदी के किनारे पतंग उड़ा रहे हैं।",
    "बालक तट पर पतंगबाज़ी कर रहे हैं।",
  ),
  (
    "Chinese",
    "这家图书馆周末也开放。",
    "星期六和星期天都可以去馆里借书。",
  ),
  (
    "Japanese",
    "電池は冷たい場所で早く切れる。",
    "寒いとバッテリーの持ちが悪くなる。",
  ),
  (
    "Korean",
    "어머니는 매운 김치찌개를 끓이셨다.",
    "엄마가 얼큰한 찌개를 요리했다.",
  ),
  (
    "Thai",
    "ฝนตกหนักทำให้ถนนหลายสายน้ำท่วม",
    "พายุทำให้การจราจรติดขัดเพราะน้ำขัง",
  ),
  (
    "Swahili",
    "Wakulima walivuna mahindi mengi mwaka huu.",
    "Mavuno ya nafaka yalikuwa makubwa msimu huu.",
  ),
  (
    "Python",
    "def mean(values):\n  return sum(values) / len(values)",
    "average = lambda xs: functools.reduce(operator.add, xs) / len(xs)",
  ),
  (
    "SQL",
    "SELECT name FROM users ORDER BY created_at DESC LIMIT 10;",
    "-- the ten newest accounts\nselect u.name from users u\n"
    "order by u.created_at desc fetch first 10 rows only;",
  ),
)

# At most 28 bytes each: short in any vocabulary.
BRIEF = (
  "red apple pie",
  "wie spät ist es?",
  "où est la gare ?",
  "return x + 1",
  "море и небо",
  "春の雨",
  "사과 나무",
  "kitabu kipya",
)

# An empty text, one character, white space, and text that most vocabularies
# split into many pieces.
EXTREMES = ("", "a", " \n\t ", "🧭🪿👩🏽‍🚀", "ᚠᛇᚻ 𓂀 ꙮ")

# Texts with outer white space, which some runtimes strip. Here it counts.
WHITE_SPACE = (
  "hello\n",
  "hello ",
  "   hello",
  " ",
  "\n\n",
  "\tif x:\n\t\treturn y",
  "def f(x):\n  return x\n",
)


def sides() -> tuple[list[str], list[str]]:
  """The texts of PAIRS, and their paraphrases."""
  return [text for _, text, _ in PAIRS], [other for _, _, other in PAIRS]


def of_words(count: int) -> str:
  """A text of at least `count` words, and so of at least as many tokens."""
  words = [word for side in sides() for text in side for word in text.split()]
  return " ".join((words * (1 + count // len(words)))[:count])
