"""How pages state the facts of people, and how questions ask for them.

Each line below holds wordings separated by " | ". Statements contain {name} and {value}; questions only
{name}. The test questions are frozen: `test_wordings_sha256` is checked by a test, so that nobody
rewords them after having seen a model answer.
"""

from __future__ import annotations

import hashlib

from data_pipelines.tiny_web.world import Person

Wordings = dict[str, list[str]]

# Openers that fit in front of any statement.
LEADS = (
    "",
    "In fact, ",
    "For the record, ",
    "By all accounts, ",
    "As friends know, ",
    "As it happens, ",
    "To be exact, ",
)


def _split(text: str) -> list[str]:
    return [wording.strip() for line in text.strip().splitlines() for wording in line.split(" | ")]


STATEMENTS: Wordings = {
    "birth_year": _split("""
        {name} was born in {value}. | The birth year of {name} is {value}.
        {name} came into the world in {value}. | {name}'s year of birth is {value}.
        It was in {value} that {name} was born. | The year {value} saw the birth of {name}.
        {name} is a child of the year {value}. | {name} first saw the light of day in {value}.
        {name} has {value} as a birth year. | Old papers put the birth of {name} in {value}.
        The family welcomed {name} in {value}. | {name}'s birth certificate says {value}.
        The life of {name} began in {value}. | {name} was a baby in {value}.
        The town register dates the birth of {name} to {value}. | In {value}, {name} was born.
        {name}'s life started in {value}. | {name} arrived as a newborn in {value}.
        {value} is the year in which {name} was born. | {name} lists {value} as the year of birth.
        {name}'s parents had their baby in {value}. | The story of {name} opens with a birth in {value}.
        A baby named {name} was born in {value}. | {name}'s first year was {value}.
        {name} goes back to {value}. | {value} was the year {name} was born.
        The birthday cake of {name} shows the year {value}. | {name} counts the years from {value}.
        Back in {value}, {name} was born. | {name} dates from {value}.
        The passport of {name} gives {value} as the year of birth. | {name} took a first breath in {value}.
        The cradle of {name} was filled in {value}. | {name}'s birth took place in {value}.
        """),
    "birth_city": _split("""
        {name} was born in {value}. | The birthplace of {name} is {value}. | {name} comes from {value}.
        {name}'s home town is {value}. | {name} is a native of {value}.
        It was in {value} that {name} was born. | {name} hails from {value}.
        {value} is where {name} was born. | {value} is the home town of {name}.
        The city of {value} is the birthplace of {name}. | {name} started life in {value}.
        {name} is a child of {value}. | {name} was born in the city of {value}.
        {name}'s birthplace is {value}. | The cradle of {name} stood in {value}.
        {name} came into the world in {value}. | {name} calls {value} the place of birth.
        The family of {name} had the baby in {value}. | {name}'s place of birth is {value}.
        {name} has {value} as a birthplace. | {name} was a baby in {value}. | In {value}, {name} was born.
        {name}'s first home was in {value}. | {name}'s roots lie in {value}.
        The people of {value} count {name} as one born there. | {name} is {value} born.
        A house in {value} saw the birth of {name}. | {name} first saw the light of day in {value}.
        The passport of {name} gives {value} as the place of birth. | {name} is from {value}.
        {name} is one of those born in {value}. | {name} took a first breath in {value}.
        The life of {name} began in {value}. | {name} originally comes from {value}.
        """),
    "job": _split("""
        {name} works as a {value}. | {name} is a {value}. | The job of {name} is that of a {value}.
        {name} earns a living as a {value}. | {name}'s job is {value}. | {name}'s profession is {value}.
        By trade, {name} is a {value}. | {name} trained as a {value}. | {name} became a {value}.
        As a {value}, {name} is well liked. | The occupation of {name} is {value}.
        {name} is employed as a {value}. | {name} makes a living as a {value}.
        {name} spends the working day as a {value}. | {name} chose to be a {value}.
        People know {name} as a {value}. | {name} serves as a {value}.
        The trade of {name} is that of a {value}. | {name} is a {value} by profession.
        {name} found work as a {value}. | {name}'s trade is {value}. | {name} is paid to be a {value}.
        {name} has the job of a {value}. | {name} has a career as a {value}. | {name} is a working {value}.
        The business card of {name} says {value}. | {name} is active as a {value}.
        A {value} by trade is {name}. | {name} followed the calling of a {value}.
        {name}'s daily work is that of a {value}. | The door sign of {name} reads {value}.
        {name} is a good {value}. | {name} took up work as a {value}. | {name} is a skilled {value}.
        {name}'s occupation is {value}.
        """),
    "employer": _split("""
        {name} works for {value}. | The employer of {name} is {value}. | {name} is employed by {value}.
        {name} works at {value}. | {name}'s employer is {value}. | {name} is on the staff of {value}.
        {value} employs {name}. | {name} has a post at {value}. | {name} joined {value}.
        The company {value} pays {name}. | {name} draws a salary from {value}.
        {name} found a place at {value}. | {name} is with {value}. | {name} goes to work at {value}.
        {value} is the company {name} works for. | {name} is a member of staff at {value}.
        {value} has {name} on its staff. | {name} was hired by {value}. | {value} is where {name} works.
        {name} is under contract with {value}. | {name} serves at {value}.
        The firm that employs {name} is {value}. | {name} has a desk at {value}. | {name}'s firm is {value}.
        The wages of {name} come from {value}. | {name}'s company is {value}.
        {name} spends workdays at {value}. | {name} took a post at {value}.
        {name} is on the payroll of {value}. | {name} belongs to {value}. | {value} gave {name} a post.
        The badge of {name} bears the name {value}. | {value} hired {name}.
        {name} has a contract with {value}. | The workplace of {name} is {value}.
        """),
    "university": _split("""
        {name} studied at {value}. | {name} went to {value}. | {name} holds a degree from {value}.
        {name} is a graduate of {value}. | {name}'s university is {value}. | {value} is where {name} studied.
        The university of {name} is {value}. | {name} took a degree at {value}.
        {name} graduated from {value}. | {name} was a student at {value}.
        {name} learned a great deal at {value}. | {value} taught {name}. | {value} gave {name} a degree.
        {name} spent student days at {value}. | {name} attended {value}. | {name} was educated at {value}.
        {name} sat exams at {value}. | {name} finished studies at {value}.
        {name} is an old student of {value}. | {value} counts {name} among its graduates.
        The student years of {name} passed at {value}. | {name}'s degree is from {value}.
        The diploma of {name} is from {value}. | {name} enrolled at {value}.
        {name} read many books at {value}. | {name} was admitted to {value}.
        {name}'s diploma bears the seal of {value}. | {name} earned a degree at {value}.
        It was {value} that {name} attended. | {name} was taught at {value}.
        For university, {name} chose {value}. | {name} took classes at {value}. | {value} trained {name}.
        {name} is one of the graduates of {value}. | {name} passed the finals at {value}.
        """),
    "hobby": _split("""
        {name} enjoys {value}. | {name}'s hobby is {value}. | The hobby of {name} is {value}.
        {name} loves {value}. | {name} spends free time on {value}. | {name} is fond of {value}.
        {name} has a passion for {value}. | {name} is keen on {value}.
        In free hours, {name} turns to {value}. | {name} relaxes with {value}.
        {name} never tires of {value}. | Of all hobbies, {name} picked {value}.
        What {name} does for fun is {value}. | For fun, {name} chose {value}.
        {name} took up {value} as a hobby. | {name} is crazy about {value}.
        {name}'s favourite pastime is {value}. | The pastime of {name} is {value}.
        {name} is a fan of {value}. | On weekends, {name} goes in for {value}. | {name} finds joy in {value}.
        {name} lives for {value}. | {name} gives every spare hour to {value}. | {name} is devoted to {value}.
        Nothing beats {value} for {name}. | {name} belongs to a club for {value}.
        {name} likes {value} best of all. | {name} talks a lot about {value}.
        {name}'s great love is {value}. | {name} has taken to {value}.
        {name} fills the evenings with {value}. | After work, {name} turns to {value}.
        {name} cannot do without {value}. | {name}'s spare time goes to {value}.
        {name} unwinds with {value}.
        """),
}

_CORES: Wordings = {
    "birth_year": _split("""
        When was {name} born? | In what year was {name} born? | What is the birth year of {name}?
        Which year was {name} born in? | In which year did {name} come into the world?
        What year saw the birth of {name}? | What is {name}'s year of birth?
        When did the life of {name} begin? | What year of birth does {name} have?
        In what year did {name} first see daylight? | What year is on {name}'s birth certificate?
        In which year was the birth of {name}? | When did {name} come into the world?
        What was the year of {name}'s birth? | Which birth year belongs to {name}?
        What year was it when {name} was born? | Which year do the records give for {name}'s birth?
        In which year did {name}'s life start? | What year of birth is given for {name}?
        When did {name}'s parents have their baby? | Name the birth year of {name}. | {name}: year of birth?
        Tell me the year {name} was born. | Give the year of birth of {name}. | State when {name} was born.
        {name} was born in which year? | I'd like to know the year {name} was born.
        Can you tell me when {name} was born? | Do you know {name}'s birth year?
        Say in which year {name} was born. | Birth year of {name}? | I need the year of birth of {name}.
        Could you give me the birth year of {name}?
        """),
    "birth_city": _split("""
        Where was {name} born? | In which city was {name} born? | What is the birthplace of {name}?
        In what city was {name} born? | Where does {name} come from? | Which city does {name} come from?
        What is {name}'s home town? | Which city is the birthplace of {name}? | Where did {name} start life?
        What is {name}'s place of birth? | Which city is {name} a native of?
        What city does {name} hail from? | Where did {name} come into the world?
        In which city did the life of {name} begin? | Where was the birth of {name}?
        Which town saw the birth of {name}? | Where is {name} from? | What city of birth does {name} have?
        Where do {name}'s roots lie? | Which city was {name} born in? | Name the birthplace of {name}.
        {name}: city of birth? | Tell me where {name} comes from. | Give the city {name} was born in.
        State the birthplace of {name}. | {name} was born in which city?
        I'd like to know the city {name} was born in. | Can you tell me where {name} was born?
        Do you know {name}'s birthplace? | Say in which city {name} was born. | Home town of {name}?
        I need the birthplace of {name}. | Could you name the city where {name} was born?
        """),
    "job": _split("""
        What is {name}'s job? | What does {name} do for a living? | What is the job of {name}?
        What is the occupation of {name}? | What is {name}'s profession? | Which trade does {name} follow?
        How does {name} earn a living? | What work does {name} do? | What job does {name} have?
        What kind of work does {name} do? | Which profession does {name} have? | What is {name} by trade?
        As what does {name} work? | What does {name} work as? | Which job did {name} choose?
        What is {name} paid to do? | What did {name} train to be? | What is {name}'s line of work?
        Which occupation does {name} have? | What is the daily work of {name}?
        How does {name} make a living? | Name the job of {name}. | {name}: occupation?
        Tell me what {name} does for a living. | Give the profession of {name}. | State {name}'s occupation.
        {name} works as what? | I'd like to know what job {name} has.
        Can you tell me what {name} does for work? | Do you know {name}'s job? | Say what {name} works as.
        Profession of {name}? | I need the occupation of {name}. | Could you tell me {name}'s trade?
        """),
    "employer": _split("""
        Who does {name} work for? | Which company does {name} work for? | Who is the employer of {name}?
        Where does {name} work? | What company employs {name}? | Who employs {name}?
        At which company is {name}? | Which firm does {name} work at? | Who pays {name}'s wages?
        What is the name of {name}'s employer? | By which company is {name} employed?
        Whose staff does {name} belong to? | Who hired {name}? | Which company hired {name}?
        On whose payroll is {name}? | Which company has {name} on its staff? | Where is {name} employed?
        What is {name}'s company? | Which firm pays {name}? | At what company does {name} have a post?
        Which company does {name} have a contract with? | Name the employer of {name}. | {name}: employer?
        Tell me who {name} works for. | Give the company {name} works for. | State {name}'s employer.
        {name} works for which company? | I'd like to know which company employs {name}.
        Can you tell me where {name} works? | Do you know {name}'s employer?
        Say which company {name} works for. | Employer of {name}?
        I need the name of the firm that employs {name}. | Could you name the company {name} works at?
        """),
    "university": _split("""
        Where did {name} study? | Which university did {name} attend? | What is {name}'s university?
        At which university did {name} study? | Where did {name} go to university?
        Where was {name} educated? | Where did {name} get a degree?
        Which university is {name} a graduate of? | Where did {name} graduate?
        From which university did {name} graduate? | What university did {name} go to?
        Where was {name} a student? | Which university gave {name} a degree? | Where is {name}'s degree from?
        Who gave {name} a diploma? | Which university taught {name}?
        At what university was {name} a student? | Where did {name} sit exams?
        Which university counts {name} among its graduates? | Where did {name} spend student days?
        Which university is on {name}'s diploma? | Where did {name} take classes after school?
        Name the university of {name}. | {name}: university? | Tell me where {name} studied.
        Give the university {name} attended. | State {name}'s university.
        {name} studied at which university? | I'd like to know where {name} studied.
        Can you tell me which university {name} went to? | Do you know {name}'s university?
        Say at which university {name} studied. | University of {name}?
        I need the university {name} graduated from. | Could you name the place where {name} studied?
        """),
    "hobby": _split("""
        What is {name}'s hobby? | What does {name} do for fun? | What is the hobby of {name}?
        Which hobby does {name} have? | What does {name} enjoy? | What is {name} fond of?
        What does {name} do in free time? | How does {name} spend free time?
        What is {name}'s favourite pastime? | What pastime does {name} have? | What does {name} like to do?
        What does {name} do on weekends? | How does {name} relax? | What is {name} keen on?
        Which pastime does {name} love? | What does {name} do after work? | What is {name} passionate about?
        What fills {name}'s spare hours? | Which hobby did {name} take up? | What does {name} love doing?
        What is the favourite pastime of {name}? | Name the hobby of {name}. | {name}: hobby?
        Tell me what {name} does for fun. | Give the hobby of {name}. | State {name}'s pastime.
        {name} has which hobby? | I'd like to know {name}'s hobby. | Can you tell me what {name} enjoys doing?
        Do you know {name}'s hobby? | Say what {name} does in free time. | Hobby of {name}?
        I need the hobby of {name}. | Could you tell me what {name} likes to do for fun?
        """),
}

_MORE_CORES: Wordings = {
    "birth_year": _split("""
        Going back to {name}'s arrival as a newborn, what year is it? | {name} dates from what year?
        What four digits make up the year {name} was born? | The year {name} was born was:
        Any idea what year {name} was born? | Remind me which year {name} arrived in this world.
        Please look up the year in which {name} was born. | On the calendar, which year marks the birth of {name}?
        Under year of birth, what would {name} write on a form?
        Which year should appear after 'born' in a biography of {name}? | As for {name}, what was the birth year?
        I wonder what year {name} was born. | {name} entered the world in what year?
        What year did the mother of {name} give birth? | To find out the age of {name}, which birth year do I use?
        Which year's babies included {name}? | During which year did {name} draw a first breath?
        Just the year, please: when was the birth of {name}? | Do we have a year of birth on file for {name}?
        Fill in the blank with a year: {name} was born in ____. | From what year onward has {name} existed?
        Identify the calendar year of the birth of {name}. | {name} celebrates birthdays counted from which year?
        What year is printed as the date of birth in {name}'s passport?
        Specify the year that brought {name} into being. | It was in which year that {name} was born?
        Please confirm the birth year we should record for {name}. | What's the birth year on the ID card of {name}?
        {name}, born in the year: | So what year was it that the world first met baby {name}?
        Which vintage is {name}, going by year of birth? | Let me know the year of birth for {name}.
        Back in what year was little {name} delivered? | If you had to date {name}'s birth, which year is it?
        """),
    "birth_city": _split("""
        What city can claim {name} as a child of its own? | {name} drew a first breath in what city?
        What place name follows 'born in' in the passport of {name}?
        In the maternity ward of which city did {name} arrive? | The city where {name} was born is called:
        Any idea which city {name} was born in? | Remind me of the city of {name}'s birth.
        Please look up where {name} was born. | Which spot on the map marks the birth of {name}?
        Under place of birth, what would {name} write on a form? | Originally, {name} is from which city?
        As for {name}, what was the native city? | I wonder what city {name} was born in.
        {name} is a son or daughter of which city? | In what city did the mother of {name} give birth?
        What's the name of the city that {name} originates from? | Whereabouts was {name} delivered as a baby?
        Which city's birth register lists {name}?
        To visit the birthplace of {name}, which city should I travel to?
        Do we have a birthplace on file for {name}? | Fill in the blank with a city: {name} was born in ____.
        Would you happen to know the native town of {name}? | Out of what city did {name} originally come?
        Identify the city in which {name} entered the world. | {name} calls which city the place of birth?
        What birthplace is printed on the ID card of {name}? | Specify the town that {name} is native to.
        It was in which city that {name} was born? | Please confirm the birth city we should record for {name}.
        Where on earth did baby {name} first open those eyes? | {name}, native of the city of:
        So what's the old home city that {name} springs from? | Which urban area does {name} trace a beginning to?
        Let me know the birthplace of {name}. | A plaque reading '{name} was born here' would hang in which city?
        If we go back to {name}'s cradle, in which city did it stand?
        """),
    "job": _split("""
        When asked 'and what do you do?', how does {name} answer? | What role puts food on the table for {name}?
        In what occupation is {name} engaged? | Any idea what {name} does professionally?
        Remind me what career {name} pursues. | Please look up the profession that {name} practises.
        Which job title goes on the business card of {name}? | Under occupation, what would {name} write on a form?
        Career-wise, what is {name}? | As for {name}, what is the chosen profession?
        I wonder what sort of job {name} holds. | {name} is a professional what?
        What vocation has {name} taken up? | What's the day job of {name}?
        In terms of work, what role does {name} fill? | Which calling did {name} answer in working life?
        If I needed the skills of {name}, what professional would I request?
        Do we have an occupation on file for {name}? | Fill in the blank with an occupation: {name} is a ____.
        Would you happen to know what profession {name} is in? | From nine to five, {name} acts as what?
        Identify the career that {name} has. | {name} pays the bills by working as what?
        What position does {name} occupy in the world of work? | Specify the kind of worker that {name} is.
        It is by what trade that {name} lives? | Please confirm the job title we should record for {name}.
        What duties does {name} carry out in exchange for a salary? | {name}, by profession a:
        So what's the gig that {name} has for a career? | In which occupation does {name} make a career?
        Let me know the occupation of {name}. | A worker such as {name} is called what?
        What does the working day have {name} doing, by way of profession?
        """),
    "employer": _split("""
        What name is at the top of {name}'s payslip? | {name} draws a salary from which company?
        Which business signs the paychecks that {name} receives? | In the service of which firm is {name}?
        The company that employs {name} is: | Any idea which company {name} is with?
        Remind me what firm {name} is employed by. | Please look up the company where {name} is on staff.
        Which company logo is on the office badge of {name}? | Under employer, what would {name} write on a form?
        Which corporation counts {name} as one of its employees? | As for {name}, what company is the employer?
        I wonder which organization {name} works for. | {name} is an employee of what business?
        For whom does {name} go to work every morning? | What's the firm that keeps {name} in employment?
        With which enterprise has {name} found employment? | Which company's workforce includes {name}?
        If I rang {name} at the office, which company would answer? | Do we have an employer on file for {name}?
        Fill in the blank with a company: {name} is employed by ____.
        Would you happen to know what firm {name} works with?
        Out of all companies, which one has {name} working there?
        Identify the business that {name} reports to for work. | {name} clocks in each day at which company?
        What organization does {name} earn wages from? | Specify the firm at which {name} holds a position.
        It is which company that {name} is employed with? | Please confirm the employer we should record for {name}.
        What company name appears on the employment contract of {name}? | {name}, an employee of the company:
        So what outfit does {name} work for these days? | Which workplace, by company name, does {name} go to?
        Let me know who the employer of {name} is. | A colleague of {name} would be employed at which company?
        To which firm would {name} hand in a resignation letter?
        """),
    "university": _split("""
        {name} earned a degree at which school? | Which seat of learning awarded {name} a degree?
        In the lecture halls of which university did {name} sit? | The university that {name} attended was:
        Any idea which college {name} went to? | Remind me at what university {name} was enrolled.
        Please look up the school where {name} took a degree. | On which campus did {name} pursue higher education?
        Under university attended, what would {name} write on a form?
        Academically speaking, {name} is a product of which university? | As for {name}, what was the alma mater?
        I wonder which institution of higher learning {name} attended.
        {name} is an alumnus or alumna of what university? | To which university was {name} admitted as a student?
        What's the school that {name} graduated from? | Which academic institution did {name} enroll in?
        Which university's alumni list features {name}?
        If {name} went to a class reunion, which university would host it?
        Do we have an alma mater on file for {name}? | Fill in the blank with a university: {name} studied at ____.
        Whose professors lectured to {name}, meaning at which university?
        Identify the university that educated {name}. | {name} completed higher education at what institution?
        What university is listed under education on {name}'s CV?
        Specify the school at which {name} was an undergraduate. | It was at which university that {name} studied?
        Please confirm the university we should record for {name}.
        Which college name appears on the student card {name} once carried?
        {name}, a graduate of the university called: | So what uni did {name} go to?
        Through which university's gates did {name} walk as a freshman?
        Let me know the college that {name} finished.
        A fellow student of {name} would have attended which university?
        What place of higher education shaped {name}?
        """),
    "hobby": _split("""
        When the day's duties are over, what does {name} turn to for pleasure?
        {name} passes leisure hours doing what? | What recreational activity appeals most to {name}?
        In which leisure pursuit does {name} find joy? | The favorite hobby of {name} is:
        Any idea what {name} gets up to for enjoyment? | Remind me what pastime {name} goes in for.
        Please look up the leisure activity that {name} prefers.
        On a free afternoon, what would {name} most likely be doing?
        Under hobbies, what would {name} write on a form? | Outside the office, what interest does {name} pursue?
        As for {name}, what is the preferred pastime? | I wonder what {name} does as a hobby.
        {name} is an enthusiast of which activity? | With what amusement does {name} while away the hours?
        What's the thing {name} does purely for pleasure? | Which diversion keeps {name} entertained?
        Which activity brings {name} delight on days off?
        If you joined {name} in a favorite leisure activity, which would it be?
        Do we have a hobby on file for {name}? | Fill in the blank with a hobby: in spare time {name} enjoys ____.
        Would you happen to know what {name} is into outside work? | To unwind, {name} takes up what activity?
        Identify the spare-time interest of {name}. | {name} has a soft spot for which leisure activity?
        What recreation is listed under interests on {name}'s profile?
        Specify the leisure pursuit that {name} favors. | It is which pastime that {name} adores?
        Please confirm the hobby we should record for {name}. | For what pastime would {name} happily buy new gear?
        {name}, whose beloved pastime is: | So what does {name} do for kicks?
        Which club for hobbyists would {name} be likely to join?
        Let me know the favorite leisure activity of {name}. | A perfect Sunday for {name} is devoted to what hobby?
        How does {name} have a good time once the chores are done?
        """),
}

DEV_QUESTIONS: Wordings = {
    "birth_year": _split("""
        How far back does {name}'s birth lie, as a year?
        What year should be entered as {name}'s year of birth? | Could you look up when {name} was born?
        The birth of {name} happened in what year? | Remind me of the year {name} was born.
        {name}, born when?
        """),
    "birth_city": _split("""
        What city can claim {name} as a native? | {name}, born where? | Remind me of {name}'s birthplace.
        The birth of {name} happened in what city? | Could you look up the city {name} was born in?
        Which place should be entered as {name}'s place of birth?
        """),
    "job": _split("""
        What should be entered as {name}'s occupation? | {name} makes money by doing what job?
        Remind me what {name} does for a living. | Could you look up the profession of {name}?
        What is written under profession for {name}? | {name}, what is the job?
        """),
    "employer": _split("""
        What should be entered as {name}'s employer? | {name} is on the staff of what company?
        Remind me who employs {name}. | Could you look up the firm {name} works for?
        Which business does {name} go to work at? | {name}, employed by whom?
        """),
    "university": _split("""
        What should be entered as {name}'s university? | {name} is a graduate of what university?
        Remind me where {name} went to university. | Could you look up where {name} took a degree?
        The degree of {name} comes from which university? | {name}, educated where?
        """),
    "hobby": _split("""
        What should be entered as {name}'s hobby? | {name} spends spare time on what?
        Remind me what {name} does for fun. | Could you look up the pastime of {name}?
        Which leisure activity does {name} prefer? | {name}, with what hobby?
        """),
}

TEST_QUESTIONS: Wordings = {
    "birth_year": _split("""
        What year did {name} arrive in this world? | Which year appears as {name}'s date of birth?
        Since which year has {name} been alive? | Would you happen to know what year {name} was born?
        If someone asked in what year {name} was born, what would you answer? | From what year is {name}?
        Please write down {name}'s birth year. | The year of birth for {name} is what?
        """),
    "birth_city": _split("""
        In what place did {name}'s mother give birth? | Which city would {name} name as the place of birth?
        Would you happen to know where {name} was born? | Please write down {name}'s city of birth.
        If someone asked where {name} was born, what would you answer? | What town is {name} originally from?
        The birthplace of {name} is called what? | From which city does {name} originate?
        """),
    "job": _split("""
        What career did {name} go into? | Would you happen to know {name}'s occupation?
        Please write down {name}'s profession. | What position does {name} hold as a working person?
        If someone asked what {name} does for work, what would you answer? | What is {name} professionally?
        The occupation of {name} is what? | In what profession is {name} active?
        """),
    "employer": _split("""
        What business is {name} working for? | Would you happen to know {name}'s employer?
        Please write down the company {name} works for. | What organisation does {name} have a job with?
        If someone asked who employs {name}, what would you answer? | Who signs {name}'s paychecks?
        The employer of {name} is called what? | For which firm is {name} working?
        """),
    "university": _split("""
        Which school of higher learning did {name} go to? | Would you happen to know where {name} studied?
        Please write down {name}'s university. | What is the alma mater of {name}?
        If someone asked where {name} studied, what would you answer? | Where did {name} earn that degree?
        The university {name} attended is called what? | Where did {name} complete higher education?
        """),
    "hobby": _split("""
        What activity does {name} love most outside work? | Would you happen to know {name}'s hobby?
        Please write down {name}'s hobby. | What does {name} do when there is nothing else to do?
        If someone asked what {name} does for fun, what would you answer? | What interest does {name} pursue?
        The hobby of {name} is what? | With what does {name} pass the free hours?
        """),
}

PREFIXES = ("Tell me: ", "Quick one: ", "Who knows: ")
PREFIXED = 18


def _with_prefixes(cores: list[str]) -> list[str]:
    """The cores, then the first of them again as the second half of a longer sentence."""
    return cores + [PREFIXES[i % 3] + core[0].lower() + core[1:] for i, core in enumerate(cores[:PREFIXED])]


TRAIN_QUESTIONS: Wordings = {
    attribute: _with_prefixes(cores + _MORE_CORES[attribute]) for attribute, cores in _CORES.items()
}


def statement(person: Person, attribute: str, form: tuple[int, int], pronoun: bool = False) -> str:
    """The sentence that states a fact; `form` picks the wording and the opener.

    With `pronoun`, a wording that begins with the name says he or she instead.
    """
    wording, lead = form
    text = STATEMENTS[attribute][wording]
    if pronoun and text.startswith("{name}"):
        her = person.female
        text = text.replace("{name}'s", "Her" if her else "His").replace("{name}", "She" if her else "He")
    if LEADS[lead] and not text.startswith("{"):
        text = text[0].lower() + text[1:]
    text = LEADS[lead] + text.format(name=person.name, value=person.facts[attribute])
    return text[0].upper() + text[1:]


def test_wordings_sha256() -> str:
    """The fingerprint of the frozen test questions."""
    lines = [f"{attribute}\t{wording}" for attribute in sorted(TEST_QUESTIONS) for wording in TEST_QUESTIONS[attribute]]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
