/** Word lists of the preset `sharp`, English. */

const list = (text: string): string[] =>
  text
    .split(',')
    .map((phrase) => phrase.trim())
    .filter((phrase) => phrase !== '');

/** Words of grammar, and those of small talk that fit every tweet; apostrophes left out. */
export const FUNCTION_WORDS: ReadonlySet<string> = new Set(
  `a an the this that these those such some any each every all both no not nor none only own same so too very just also
  even still yet ever never always often again once here there where when while how what which who whom whose why if or
  and but as at by for from in into of off on onto out over to up upon with without within about above across after
  against along among around before behind below between beyond down during near per since than then through toward under
  until via i me my mine myself we us our ours ourselves you your yours yourself u ur he him his himself she her hers
  herself it its itself they them their theirs themselves one someone something anyone anything everyone everything
  nobody nothing is am are was were be been being do does did doing done have has had having can could will would shall
  should may might must im ive id ill youre youve youd youll hes shes its weve were wed theyre theyve thats theres whats
  isnt arent wasnt werent dont doesnt didnt havent hasnt hadnt cant couldnt wont wouldnt shouldnt lets because though
  although however therefore get gets got getting go goes going gone went make makes made making know knows think thinks
  say says said see sees seen thing things stuff way lot lots much many more most less least few really quite rather
  pretty actually maybe perhaps please well ok okay yes yeah yep no nope oh ah wow hey hi hello lol haha hahaha thanks
  thank good great nice cool awesome amazing love like best better wonderful fantastic brilliant perfect beautiful
  interesting true agree agreed totally absolutely exactly definitely indeed right sure post tweet thread people person
  everybody time today day`.split(/\s+/),
);

/** Praise and agreement that fit any tweet. */
export const EMPTY_PHRASES = list(`
  thanks for sharing, thank you for sharing, thanks, thank you, agree, agreed, i agree, totally agree, couldn't agree more,
  could not agree more, so true, very true, true, this, this is it, this right here, nice, nice one, nice post, great, great post, great
  point, great thread, great stuff, good point, good one, good stuff, well said, well put, so good, interesting, very
  interesting, exactly, same, same here, yep, yes, yeah, no, lol, haha, hahaha, lmao, wow, cool, awesome, amazing, love
  this, love it, love that, i love this, i love it, this is amazing, this is great, this is so true, so important, needed this, i needed this, needed to
  hear this, spot on, facts, big facts, real talk, preach, amen, word, 100, mood, big mood, relatable, so relatable, can relate, i can relate, totally, absolutely,
  definitely, indeed, of course, for sure, congrats, congratulations, good luck, you rock, you are the best, you're the best, the best, queen, king,
  legend, what a legend, inspiring, so inspiring, such an inspiration, an inspiration, keep it up, keep going, keep up the
  good work, keep up the great work, keep shining, have a great day, have a nice day, sounds good, sounds great, makes sense, fair enough, right, true that,
  ok, okay, sure, hmm, oh wow, oh no, no way, first, so cute, beautiful, perfect, brilliant, fantastic, wonderful, powerful words,
  words to live by, wise words, food for thought, something to think about, it is what it is, at the end of the day, life is a journey,
  everything happens for a reason, time will tell, we'll see, only time will tell`);

/** Asking for reactions instead of saying something. */
export const BAIT = list(`
  thoughts?, any thoughts?, your thoughts?, thoughts, what do you think, what do you all think, what does everyone think, who agrees, who else agrees, anyone else agree, agree or disagree,
  agree?, like if, like this if, retweet if, rt if, share if, tag a friend, tag someone, tag your, drop a, comment below, in the comments, let me know below, yes or no,
  hot take or not, raise your hand, type yes, double tap, tell us why, let us know, let's discuss, discuss`);

/** Selling something, oneself included. */
export const PROMOTION = list(`
  check out my, check out our, check my, check our, link in bio, link in my bio, link in profile, in my bio, see my bio, follow me, follow back, follow for, followers, follow us, dm me, dm us, dms are open, dm for, pm me, message me,
  subscribe, sign up, giveaway, discount, promo, promo code, coupon, use code, % off, percent off, free trial, free shipping, for free,
  click here, click the link, click below, buy now, shop now, order now, limited time, limited offer, best price, earn money, make money, extra income, passive income, work from home, crypto, airdrop, nft, forex,
  my channel, my podcast, my newsletter, my course, my book, my ebook, my shop, my store, my page, our page, our app, our website, my website, on sale, visit our, visit my, join our, join my, whatsapp, telegram`);

/** Insults, as far as a list can know them. */
export const INSULTS = list(`
  idiot, idiots, idiotic, moron, morons, moronic, stupid, dumb, dumbest, loser, losers, pathetic, clown, clowns, shut up, shut it, stfu, nobody asked, no one asked, who asked, nobody cares, no one cares, who cares,
  get a life, grow up, touch grass, cry more, cope, cope harder, delete your account, delete this, you people, kill yourself, trash, garbage take, worst take, embarrassing, disgusting, ugly, ratio, snowflake, crybaby, skill issue`);

/** Reasons, contrasts, conditions and turns: signs that a reply argues or tells. */
export const REASONS = list(`
  because, but, though, although, except, unless, until, instead, actually, turns out, turned out, which is why, that's why, so that, even if, in case, if you, if it, if they, only if, rather than, the trick is,
  the trick, in my experience, last year, last week, last time, once, ended up, used to, meanwhile, while, since, whereas, depends, apart from, not just, at least, the only, still, yet`);
