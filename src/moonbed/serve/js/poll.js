/** Asking the server again and again, and saying so when it is gone. */

/**
 * Ask for `url` every second, more rarely while nothing answers, and not at all while the page is hidden.
 * @param {string} url
 * @param {(data: object, status: number) => void} take  called with what has changed
 * @param {number} seconds
 */
export function poll(url, take, seconds = 1) {
  let tag = "";
  let lost = 0;
  let timer = 0;
  const again = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(ask, 1000 * wait);
  };
  async function ask() {
    if (document.hidden) return;
    try {
      const answer = await fetch(url, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status !== 304) {
        const data = await answer.json();
        tag = answer.headers.get("ETag") ?? "";
        take(data, answer.status);
      }
      lost = 0;
      say("");
    } catch (error) {
      lost += 1;
      if (!(error instanceof TypeError) && !(error instanceof SyntaxError)) console.error(error);
      say("The server does not answer: what is shown is the last that it said. It is asked again.");
    }
    again(lost ? Math.min(10, seconds * 2 ** Math.min(lost, 4)) : seconds);
  }
  document.addEventListener("visibilitychange", () => document.hidden || again(0));
  ask();
}

/** Show a trouble above the page, or none. */
function say(text) {
  const place = document.getElementById("trouble");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}
