/** Templates of the embedded world's tweets and replies. `{slot}` is filled from the topic or from the lists below. */

/** What a tweet does, which decides how a reply fits its tone. */
export type Stance = 'trouble' | 'joy' | 'claim';

export const tweetTemplates: Record<Stance, readonly string[]> = {
  trouble: [
    'My {subject} {trouble} {when}. {lament}',
    '{opener} my {subject} {trouble}. {lament}',
    'Update: my {subject} {trouble}. {lament}',
    'So my {subject} {trouble} {when}. What am I missing?',
    'Quick question: my {subject} {trouble}. Any ideas?',
    '{span} of work and my {subject} {trouble}. {lament}',
    'Day {number} and my {subject} {trouble}. {lament}',
    'Can someone explain why my {subject} {trouble} {when}?',
    'I followed every step and my {subject} {trouble}. {lament}',
    'Guests come {future} and my {subject} {trouble}. Help.',
  ],
  joy: [
    'My {subject} {joy}! {cheer}',
    '{span} of practice and my {subject} {joy}. {cheer}',
    'Small win {when}: my {subject} {joy}. {cheer}',
    'I cannot believe it, my {subject} {joy}!',
    'Day {number}: my {subject} {joy}. {cheer}',
    '{opener} my {subject} {joy}. {cheer}',
    'Nobody at home cares, but my {subject} {joy}.',
    'It took {span2}, but my {subject} {joy}. {cheer}',
  ],
  claim: [
    'Unpopular opinion: {claim}.',
    'Hot take: {claim}.',
    'I will say it again: {claim}.',
    'After {span2} I am sure: {claim}.',
    'Change my mind: {claim}.',
    'My {subject} taught me one thing: {claim}.',
    '{claim}. There, I said it.',
    'Can we agree that {claim}?',
    'Day {number} of telling people that {claim}.',
  ],
};

export const slots: Record<string, readonly string[]> = {
  when: [
    'again',
    'this morning',
    'last night',
    'on Sunday',
    'yesterday',
    'right before lunch',
    'for the third time',
    'today',
    'this week',
  ],
  opener: [
    'Great news everyone,',
    'Well,',
    'Of course',
    'Guess what,',
    'Not even joking,',
    'And just like that',
    'True story:',
  ],
  lament: [
    'I am so tired of this.',
    'I give up.',
    'I am calm. Totally calm.',
    'Send help.',
    'Why does this keep happening?',
    'I even read the manual.',
    'My week is complete.',
    'Not my finest hour.',
    'I need a break.',
    'Any tips?',
  ],
  cheer: [
    'I am so happy.',
    'Best day of the month.',
    'I could dance.',
    'Worth the wait.',
    'I had to tell someone.',
    'Hard work pays off.',
    'Still smiling.',
    'What a feeling.',
    'I may cry.',
  ],
  span: [
    'Three weeks',
    'Two months',
    'A whole year',
    'Six hours',
    'Ten days',
    'A full weekend',
    'Half a year',
  ],
  span2: [
    'three weeks',
    'two months',
    'a whole year',
    'ten tries',
    'half my life',
    'five long days',
    'a lot of swearing',
  ],
  number: ['3', '5', '9', '12', '17', '21', '30', '42', '60', '88', '100'],
  future: ['tonight', 'tomorrow', 'in an hour', 'on Saturday', 'at noon'],
  person: [
    'a neighbor',
    'my aunt',
    'an old friend',
    'my brother',
    'a colleague',
    'my teacher',
    'my grandfather',
  ],
  time: ['last year', 'last month', 'a while ago', 'in spring', 'two weeks ago', 'as a student'],
  soft: [
    'Oh no.',
    'Ouch.',
    'That hurts.',
    'So sorry to hear that.',
    'Been there.',
    'I feel you.',
    'Painful.',
  ],
  glad: [
    'Congrats!',
    'So happy for you!',
    'Love this.',
    'Well earned!',
    'That is wonderful.',
    'Big moment!',
    'Bravo!',
  ],
  polite: [
    'I see it differently,',
    'Not sure I agree,',
    'With respect,',
    'Fair point, but',
    'I get it, but',
    'Kindly disagree,',
    'Close, but',
  ],
  praise: ['great', 'nice', 'interesting', 'good', 'cool', 'fine', 'lovely'],
  deal: [
    'free followers',
    'a free phone',
    'easy money',
    'my new course',
    'crypto signals',
    'cheap tickets',
    'a secret discount',
  ],
  channel: ['link in bio', 'check my page', 'message me now', 'click my profile', 'follow me back'],
};

/** Replies that could stand under any tweet. */
export const genericReplies: readonly string[] = [
  ...[
    'lol',
    'Lol.',
    'haha',
    'Haha yes',
    'thanks',
    'Thank you',
    'Thanks for sharing',
    'so true',
    'So true!',
    'true',
    'True that',
  ],
  ...[
    'this',
    'This.',
    'nice',
    'Nice one',
    'Nice!',
    'great',
    'Great stuff',
    'cool',
    'Cool',
    'same',
    'Same here',
    'yes',
    'Yes!',
    'yep',
    'no',
  ],
  ...[
    'agreed',
    'Agreed!',
    'exactly',
    'Exactly.',
    'good point',
    'Good point',
    'wow',
    'Wow',
    'ok',
    'Okay then',
    'interesting',
    'Interesting',
  ],
  ...[
    'No way',
    'Good for you',
    'Love it',
    'Oh well',
    'Happens',
    'It is what it is',
    'Who knows',
    'I know right',
    'Big mood',
    'Me too',
  ],
];

/** Replies that look kind and say nothing. */
export const blandTemplates: readonly string[] = [
  'That sounds {praise}. Hope it goes well.',
  'What a {praise} thing to share, thank you.',
  'I think that is {praise}. Have a {praise} day.',
  'Hope you have a {praise} week.',
  'Thanks for sharing this {praise} post with us.',
  'I never thought about it that way, {praise}.',
  'Things like that happen to everyone I guess.',
  'That is really {praise}, keep going.',
  'You are right about that, I think so too.',
  'Well, some days are like that.',
];

export const echoTemplates: readonly string[] = [
  'Your {subject} {event}, I see.',
  'So your {subject} {event}.',
  'Your {subject} {event}? Okay.',
  'You say {claim}.',
  'So {claim}, I see.',
];

export const spamTemplates: readonly string[] = [
  'Want {deal}? {channel}!',
  'I made it big with {deal}, {channel}.',
  'Get {deal} today, {channel}.',
  'Stop what you do and get {deal}, {channel}',
];

/** Replies that engage, by strategy and by the tweet's stance. */
export const engagingTemplates: Record<
  'specific' | 'question' | 'joke' | 'anecdote',
  Record<Stance, readonly string[]>
> = {
  specific: {
    trouble: [
      '{soft} For my {subject} the fix was {detail}.',
      'Try {detail}. It saved my {subject} {time}.',
      '{soft} Give {detail} a chance before you quit on your {subject}.',
      'It is often {detail} that your {subject} needs.',
      'I would start with {detail}, then look at your {subject} again.',
    ],
    joy: [
      '{glad} With {detail} your {subject} will get even better.',
      '{glad} Next step for your {subject}: {detail}.',
      'You can tell you put love into your {subject}. Now add {detail}.',
      '{glad} I bet {detail} did the trick for your {subject}.',
    ],
    claim: [
      'True for my {subject} at least, and {detail} is the proof.',
      'My {subject} agrees, ever since I found {detail}.',
      'Add {detail} to that and you are right about any {subject}.',
    ],
  },
  question: {
    trouble: [
      '{soft} Did you try {detail} with your {subject}?',
      'Have you thought about {detail}? My {subject} did the same {time}.',
      'Was {detail} part of the plan before your {subject} gave up?',
      '{soft} How old is your {subject}, and do you use {detail}?',
    ],
    joy: [
      '{glad} Was it {detail} that helped your {subject}?',
      '{glad} How long did your {subject} take, and did you use {detail}?',
      'What changed with your {subject}, was it {detail}?',
    ],
    claim: [
      'Does that still hold once you try {detail} with your {subject}?',
      'What about {detail}, would it change your view on the {subject}?',
      'Is that because of your {subject}, or have you tried {detail} too?',
    ],
  },
  joke: {
    trouble: [
      '{soft} On the bright side, you now own {joke}.',
      'Do not call it a broken {subject}, call it {joke}.',
      'So your {subject} is now {joke}. I respect that.',
      'Some people pay good money for {joke}, and your {subject} did it for free.',
    ],
    joy: [
      '{glad} My {subject} is still {joke}.',
      'Meanwhile my {subject} is {joke}, please send some luck.',
      '{glad} Beats my {subject}, which became {joke}.',
    ],
    claim: [
      'Says the one whose {subject} is {joke}.',
      'My {subject} became {joke}, so I will trust you on that.',
      'I tried to argue, but my {subject} is {joke}.',
    ],
  },
  anecdote: {
    trouble: [
      'Mine did that {time}, until {person} showed me {detail}.',
      '{soft} My {subject} {trouble} too {time}. {Detail} turned it around.',
      '{Person} once told me that every {subject} needs {detail}, and it worked.',
    ],
    joy: [
      '{glad} Mine took {span2} and {detail} before my {subject} got there.',
      '{glad} {Person} gave me {detail} {time} and my {subject} {joy} as well.',
    ],
    claim: [
      '{Person} said the same {time}, then {detail} won me over.',
      'I fought about my {subject} with {person} {time}, and {detail} settled it.',
    ],
  },
};

export const disagreeTemplates: readonly string[] = [
  '{polite} {counter}.',
  '{polite} {counter}. Try {detail} once.',
  '{polite} I think {counter}. Have you tried {detail}?',
  '{polite} {counter}. My {subject} is the proof.',
];

/** Words and phrases of tone, looked up by the law. */
export const toneMarkers = {
  comfort: slots.soft,
  cheer: slots.glad,
  polite: slots.polite,
  spam: [...slots.deal, ...slots.channel],
} as const;
