"""Sentences in other languages, for pages that a crawl of English must not keep."""

from __future__ import annotations

import random

# language -> subjects, verbs with an adverb, objects, endings of a sentence
PARTS = {
    "de": (
        "Der alte Mann|Die junge Frau|Das kleine Kind|Unser Nachbar|Die Lehrerin|Ein fremder Reisender|Der Bäcker",
        "kauft heute|sucht immer noch|findet endlich|verkauft jeden Morgen|"
        "zeichnet gern|repariert langsam|vergisst oft",
        "einen großen Hut|das schöne Buch|die gelbe Lampe|ein neues Fahrrad|den schweren Koffer|frisches Brot",
        "auf dem Markt|hinter der Kirche|neben dem Bahnhof|mit seinen Freunden|"
        "weil es draußen regnet|vor dem Abendessen",
    ),
    "fr": (
        "Le vieux monsieur|La jeune fille|Notre voisin|Une petite souris|Le boulanger|Mon oncle|La maîtresse",
        "achète aujourd'hui|cherche toujours|trouve enfin|vend chaque matin|"
        "dessine souvent|répare lentement|oublie encore",
        "un grand chapeau|le beau livre|une lampe jaune|du pain frais|la lourde valise|un vélo neuf",
        "au marché|derrière l'église|près de la gare|avec ses amis|parce qu'il pleut dehors|avant le dîner",
    ),
    "es": (
        "El viejo señor|La niña pequeña|Nuestro vecino|Una mujer alegre|El panadero|Mi tío|La maestra",
        "compra hoy|busca todavía|encuentra por fin|vende cada mañana|dibuja siempre|arregla despacio|olvida a menudo",
        "un sombrero grande|el libro bonito|una lámpara amarilla|pan fresco|la maleta pesada|una bicicleta nueva",
        "en el mercado|detrás de la iglesia|cerca de la estación|con sus amigos|porque está lloviendo|antes de la cena",
    ),
    "it": (
        "Il vecchio signore|La ragazza gentile|Il nostro vicino|Una piccola gatta|Il fornaio|Mio zio|La maestra",
        "compra oggi|cerca ancora|trova finalmente|vende ogni mattina|"
        "disegna volentieri|ripara lentamente|dimentica spesso",
        "un grande cappello|il bel libro|una lampada gialla|il pane fresco|la valigia pesante|una bicicletta nuova",
        "al mercato|dietro la chiesa|vicino alla stazione|con i suoi amici|perché fuori piove|prima di cena",
    ),
    "pl": (
        "Stary człowiek|Młoda kobieta|Nasz sąsiad|Małe dziecko|Piekarz z miasta|Mój wujek|Nauczycielka",
        "kupuje dzisiaj|wciąż szuka|często znajduje|sprzedaje każdego ranka|"
        "chętnie rysuje|powoli naprawia|rzadko zapomina",
        "duży kapelusz|piękną książkę|żółtą lampę|świeży chleb|ciężką walizkę|nowy rower",
        "na rynku|za kościołem|obok dworca|z przyjaciółmi|ponieważ pada deszcz|przed kolacją",
    ),
}


def paragraph(rng: random.Random, language: str, sentences: int) -> str:
    parts = [part.split("|") for part in PARTS[language]]
    return " ".join(" ".join(map(rng.choice, parts)) + "." for _ in range(sentences))
