"use strict";
(() => {
  const age = document.getElementById("age"), state = document.getElementById("state");
  const said = (s) => s < 90 ? Math.round(s) + " s" : s < 5400 ? Math.round(s / 60) + " min"
    : s < 172800 ? Math.round(s / 3600) + " h" : Math.round(s / 86400) + " days";
  const show = () => {
    const seconds = Math.max(0, (Date.now() - Number(age.dataset.written)) / 1000);
    age.textContent = "written " + said(seconds) + " ago";
    if (age.dataset.alive === "1" && seconds > Number(age.dataset.expected)) {
      state.textContent = "no news";
      state.className = "state bad";
      document.getElementById("now").textContent = "When it was last heard of";
      document.getElementById("left")?.remove();
      age.textContent += ": the run was killed, or hangs, or its folder is a copy. The same command goes on with it.";
    }
  };
  show();
  setInterval(show, 5000);
})();
